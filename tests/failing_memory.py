# SPDX-License-Identifier: Apache-2.0
"""Simulates failing allocations: each allocation of a kernel library fails in turn."""

MOST_ALLOCATIONS = 2000


def fail_each(library, attempt, check, errors, step=1):
    """Make each allocation of ``attempt``, or each ``step``-th one, fail once.

    Args:
        library: an open library with ``sd_fail_allocation``.
        attempt: the call; it must raise an error, or succeed without the memory.
        check: receives the result of an attempt, and of the next call after a failed one.
        errors: the allowed exceptions; the text must mention memory.
        step: 1 for all.

    Returns:
        Number of calls that ended with an error.
    """
    fail, failures = library.sd_fail_allocation, 0
    for number in range(0, MOST_ALLOCATIONS * step, step):
        fail(number)
        problem = ""
        try:
            result = attempt()
        except errors as error:
            problem = str(error)
        made, failed = fail(-1), problem != ""
        assert not failed or "out of memory" in problem or "bad_alloc" in problem
        failures += failed
        check(attempt() if failed else result)
        if made <= number:
            assert not failed
            return failures
    raise AssertionError(f"more than {MOST_ALLOCATIONS * step} allocations")
