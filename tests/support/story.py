"""A story, call by call, each looked up in the audit log."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from registry.db.tables import Model, Token, User, now
from tests.support.audit_log import last, rows
from tests.support.world import World

MODEL = "/api/v1/models/{namespace}/{name}"
HUB = "/api/models/{namespace}/{name}"
PARTS = {  # of something that is in the log as a whole; or what somebody has read, and wants to
    "POST /api/v1/news/seen",
    f"PUT {MODEL}/watch",
    f"DELETE {MODEL}/watch",
    "PUT /api/v1/uploads/{upload_id}/parts/{number}",
    "PUT /api/lfs/{upload_id}/parts/{number}",
    "POST /api/lfs/{upload_id}/complete",
    f"POST {HUB}/preupload/{{rev}}",
    "POST /api/validate-yaml",
    "POST /api/v1/device",
}
SEVERAL = {  # which announce, complete or send several files, each with a row
    f"POST {HUB}/commit/{{rev}}",
    "POST /{namespace}/{name}.git/info/lfs/objects/batch",
    "POST /{namespace}/{name}.git/info/lfs/objects/verify",
}
OPEN = {"state": "proposed"}
BUNDLE = json.dumps({"verificationMaterial": {}, "dsseEnvelope": {}})


@dataclass
class Story:
    """The story of `crew/tiny`, call by call, each looked up in the log."""

    world: World
    told: set[str] = field(default_factory=set)

    def tell(
        self,
        user: str,
        way: str,
        body: Any = None,
        /,
        *,
        wrote: str,
        about: str,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
        adds: bool = False,
        **values: str,
    ) -> Any:
        """Call once, and look for the one row; call again, which may be refused but, unless it adds, writes nothing.

        Args:
            user: Who.
            way: Method and path of the route.
            body: JSON.
            wrote: The action in the log.
            about: The subject in the log.
            before: What the row says was there.
            after: What the row says of what is there now, among other things.
            adds: Whether the same call again is another thing.
            values: What the parameters of the path are.
        """
        self.told.add(way)
        method, path = way.split()
        url = path.format_map({"namespace": "crew", "name": "tiny", **values})
        client, serial, told = self.world.client(user), last(self.world), f"story-{uuid.uuid4().hex}"
        answer = client.request(method, url, json=body, headers={"X-Request-Id": told})
        assert answer.status_code < 300, (way, answer.status_code, answer.text)
        found = rows(self.world, serial)
        assert [(row.serial, row.action, row.subject) for row in found] == [(serial + 1, wrote, about)], way
        row = found[0]
        with self.world.database.read() as session:
            speaker = session.scalars(select(User).where(User.name == user)).one()
            token = session.scalars(select(Token).where(Token.user_id == speaker.id).order_by(Token.created_at)).first()
            model = session.scalar(select(Model).where(Model.name == "tiny"))
        assert token is not None
        assert (row.user_id, row.user_name, row.token_prefix) == (speaker.id, user, token.prefix), way
        assert row.token_prefix == self.world.tokens[user][:9]
        assert row.request_id == answer.headers["x-request-id"] == told, way
        assert abs((now() - row.at).total_seconds()) < 60
        assert row.before == before, way
        if after is None:
            assert row.after is None, way
        else:
            assert row.after is not None and row.after | after == row.after, (way, row.after)
        if wrote.startswith("report."):
            assert row.model_id is None, "whoever may read what happened to a model would see who reported it"
        elif "{name}" in path:
            assert model is not None and row.model_id == model.id, way
        if not adds:
            again = client.request(method, url, json=body)
            assert again.status_code < 500, again.text
            assert not rows(self.world, serial + 1), (way, again.status_code, again.text)
        return answer.json() if answer.content else None
