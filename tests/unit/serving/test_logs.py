# SPDX-License-Identifier: Apache-2.0
"""Log lines describe events, and clients can't forge them."""

import json

import pytest

from sparse_deploy.serving.logs import log, set_up

HOSTILE = "x\n2026-01-01 info stopped\r\x1b[2J\x9b1m\u2028\u202e"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_clients_words_stay_on_their_line(capsys, form):
    set_up(form)
    log("request", id=HOSTILE, error="ünïcödé 漢字")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert "ünïcödé 漢字" in line
    if form == "json":
        assert json.loads(line)["id"] == HOSTILE
