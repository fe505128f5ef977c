#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Gate a deployment in any CI system with a shell, with `sparse-deploy[toolchain]` installed.
#
#   examples/ci/gate.sh DEPLOYMENT [more arguments of `sparse-deploy bench`]
#   BASELINE=baseline.json REPORT=gate-report examples/ci/gate.sh model/deployment --data-dir data
#
# If BASELINE is set and the file does not exist, this run stores it (use a trusted model, and commit the file); later
# runs are compared with it. The exit code is that of bench: 0 ok, 3 a goal is missed, 4 inconclusive, others are errors.
set -euo pipefail
deployment=${1:?usage: gate.sh DEPLOYMENT [arguments of sparse-deploy bench]}
shift
report=${REPORT:-gate-report}
arguments=(--gate --no-latency --report "$report" "$@")
if [[ -n ${BASELINE:-} ]]; then
  if [[ -f $BASELINE ]]; then
    arguments+=(--against "$BASELINE")
  else
    arguments+=(--save-baseline "$BASELINE")
  fi
fi

code=0
sparse-deploy bench "$deployment" "${arguments[@]}" || code=$?
case $code in
  0) echo "gate: ok" >&2 ;;
  3) echo "gate: a goal is missed, see $report/gate.md" >&2 ;;
  4) echo "gate: too few rows for a verdict, see $report/gate.md" >&2 ;;
  *) echo "gate: no verdict, bench ended with $code" >&2 ;;
esac
exit "$code"
