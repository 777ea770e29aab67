"""News by e-mail from end to end: by commands, from a real server that is killed while its mail server is away."""

import re
from pathlib import Path

import pytest

from client.actions.models import create
from client.actions.push import push
from client.api.client import Client
from tests.support.mail_servers import open_mail_server
from tests.support.processes import open_registry, until
from tests.support.visitors import Crumb, Files

MODEL, ADDRESS = "ada/tidy", "ada@example.org"


@pytest.mark.slow
def test_what_is_proposed_while_the_mail_server_is_away_is_mailed_once_it_is_back(
    tmp_path: Path, crumb: Crumb, files: Files
) -> None:
    with open_mail_server() as server:
        settings = {"smtp_host": "127.0.0.1", "smtp_port": server.port, "smtp_security": "none"}
        settings |= {"mail_from": "news@crumbs.example.org", "public_url": "https://crumbs.example.org"}
        with open_registry(tmp_path, part_bytes=1024, **settings) as registry:
            serving = registry.serve()
            ada = {"CRUMB_URL": registry.url, "CRUMB_TOKEN": registry.token("ada")}
            with Client(registry.url, ada["CRUMB_TOKEN"]) as client:
                create(client, MODEL, files.base)
            assert "a link is sent there soon" in crumb("mail", "set", ADDRESS, "--at-once", **ada)
            mail = until(lambda: server.to(ADDRESS))[0]
            link = re.search(r"https://\S+", mail.get_content())
            assert link
            assert crumb.json("mail", "confirm", link[0], **ada)["state"] == "verified"
            server.greeting = "421 away"
            with Client(registry.url, registry.token("bob")) as client:
                push(client, files.patches[0], MODEL, "One")
                client.propose(MODEL, 1)
            until(lambda: "mailer.away" in registry.logs(), 120)
            serving.kill()
            serving.wait()
            registry.serve()
            server.greeting = "220 here"
            until(lambda: len(server.received) > 1, 120)
            assert f"bob proposed {MODEL}#1" in server.received[1].get_content()
            registry.stop()
            assert len(server.received) == 2
            registry.serve()
            assert "confirmed" in crumb("mail", "set", ADDRESS, "--off", **ada)
            crumb("mail", "forget", **ada)
            assert crumb.json("mail", "show", **ada)["state"] == "none"
