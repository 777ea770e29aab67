"""Access: every route with every role and every kind of token, on one's own models and others'."""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select
from starlette.testclient import TestClient

from registry.db.tables import AuditEvent, Model, ModelMember, Namespace, NamespaceMember, Token, User, now
from registry.services.people import access
from registry.services.people.rules import RULES, SCOPES, Role
from registry.services.people.tokens import create_token
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.routes import SAFE, Way, every_way, open_paths
from tests.support.world import World, create_model, digest, open_world, push_patch, upload

pytestmark = pytest.mark.heavy

OPEN, SHUT, FOREIGN = "crew/open", "band/shut", "vault/secret"
ABSENT = "vault/absent"  # in a namespace that there is
NOWHERE = "nowhere/at-all"
MEMBERS = ("contributor", "reviewer", "maintainer", "owner")
ACTORS = (None, "stranger", *MEMBERS, "author", "chief", "disabled")
BY_ADDRESS = ("upload.part",)  # the Hub's tools send parts without a token, to an address that only they were given
BY_STRANGERS = (
    "join.ask",
    "join.accept",
    "device.ask",
    "publisher.exchange",
    "mail.unsubscribe",
)  # who have no token, but a secret or a wish
FOR_READERS = ("report.create", "conflict.ask")  # who sees it may say that it is bad, and ask how patches meet
NONSENSE = {"nothing": "that any route knows"}  # refused by every route that reads a body, once it reads it


@dataclass
class Place:
    """A registry with a public model, a private one, and one on which only `chief` has a role."""

    world: World
    http: TestClient
    ways: list[Way]
    secrets: dict[str | None, str] = field(default_factory=dict)
    patches: dict[str, str] = field(default_factory=dict)

    def url(self, way: Way, model: str, **values: str) -> str:
        """Return the path of a route on a model; everything else that it names does not exist."""
        namespace, _, name = model.partition("/")
        anybody = {
            "namespace": namespace,
            "name": name,
            "number": "1",
            "user": "nobody-at-all",
            "ref": "base",
            "rev": "base",
            "path": "config.json",
            "recipe": "0" * 64,
            "sha256": "0" * 64,
            "version": "9.9.9",
            "channel": "nightly",
            "token_id": str(uuid.uuid4()),
            "upload_id": str(uuid.uuid4()),
            "comment_id": str(uuid.uuid4()),
            "job_id": str(uuid.uuid4()),
            "webhook_id": str(uuid.uuid4()),
            "delivery_id": str(uuid.uuid4()),
            "report_id": str(uuid.uuid4()),
            "invitation_id": str(uuid.uuid4()),
            "session_id": str(uuid.uuid4()),
            "account_id": str(uuid.uuid4()),
            "publisher_id": str(uuid.uuid4()),
            "first": "8",
            "second": "9",
        }
        return way.url(**anybody | values)

    def ask(self, way: Way, model: str, secret: str | None, **values: str) -> Any:
        """Call a route with a token and an invalid body, so that nothing changes."""
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        body = None if way.method in SAFE else NONSENSE
        return self.http.request(way.method, self.url(way, model, **values), headers=headers, json=body)

    def role(self, actor: str | None, model: str) -> Role:
        """Return an actor's role on a model, as the fixture set it."""
        if actor == "chief":
            return Role.ADMIN
        if model == FOREIGN:
            return Role.NONE
        if actor in MEMBERS:
            return Role[actor.upper()]
        if model == SHUT:
            return Role.CONTRIBUTOR if actor == "author" else Role.NONE
        return Role.CONTRIBUTOR if actor else Role.ANYONE

    def role_in(self, actor: str | None, namespace: str) -> Role:
        """Return an actor's role on a namespace: only `band` has members."""
        if actor == "chief":
            return Role.ADMIN
        return Role[actor.upper()] if actor in MEMBERS and namespace == "band" else Role.CONTRIBUTOR

    def token(self, user: str, scopes: tuple[str, ...] = SCOPES, model: str | None = None, days: float = 1) -> str:
        """Create another token."""
        with self.world.database.write() as session:
            secret, row = create_token(session, user, scopes=scopes, expires_days=days)
            if model:
                namespace, _, name = model.partition("/")
                row.model_id = session.scalars(
                    select(Model.id).where(Model.namespace == namespace, Model.name == name)
                ).one()
        return secret


def member(session: Any, where: str, user: str, role: str) -> None:
    """Give a role on a model or in a namespace."""
    user_id = session.scalars(select(User.id).where(User.name == user)).one()
    namespace, _, name = where.partition("/")
    if name:
        model_id = session.scalars(select(Model.id).where(Model.namespace == namespace, Model.name == name)).one()
        session.merge(ModelMember(model_id=model_id, user_id=user_id, role=role))
    else:
        space = session.scalars(select(Namespace.id).where(Namespace.name == namespace)).one()
        session.merge(NamespaceMember(namespace_id=space, user_id=user_id, role=role))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    migrated_template: Callable[[str], str],
) -> Iterator[Place]:
    folder, template = tmp_path_factory.mktemp("place"), migrated_template(request.param)
    if request.param == "sqlite":
        shutil.copyfile(str(sqlalchemy.make_url(template).database), folder / "registry.db")
        url = f"sqlite:///{folder / 'registry.db'}"
    else:
        url = request.getfixturevalue("databases").create(template)
    with (
        open_world(folder / "data", url) as world,
        world.client(None) as http,
    ):
        made = Place(world, http, every_way(world.app), {None: ""})
        for user in filter(None, (*ACTORS, "founder", "newcomer")):
            made.secrets[user] = world.token(user, admin=user == "chief")
        founder = world.client("founder")
        base = make_checkpoint(folder / "base")
        for place, name in enumerate((OPEN, SHUT, FOREIGN)):
            assert founder.post("/api/v1/namespaces", json={"name": name.partition("/")[0]}).status_code == 201
            create_model(world, name, base, "founder")
            file = folder / f"{place}.safetensors"
            make_patch(base, fine_tuned(base, folder / f"tuned{place}", seed=place + 1), file)
            made.patches[name] = digest(file.read_bytes())
            with world.database.write() as session:
                member(session, name, "author", "contributor")
            beside = [{"path": "config.json", "sha256": upload(world.client("author"), b"{}")}]
            push_patch(world, name, file, "author", propose=True, files=beside)
        file = folder / "second.safetensors"
        make_patch(base, fine_tuned(base, folder / "tuned", seed=9), file)
        push_patch(world, FOREIGN, file, "founder", propose=True)
        for name in (SHUT, FOREIGN):
            hidden = founder.patch(f"/api/v1/models/{name}", json={"visibility": "private"})
            assert hidden.status_code == 200
        with world.database.write() as session:
            for user in MEMBERS:
                member(session, OPEN, user, user)  # a role on the model
                member(session, "band", user, user)  # a role in its namespace
            for where in (OPEN, SHUT, FOREIGN, "crew", "band", "vault"):
                member(session, where, "disabled", "owner")
            session.scalars(select(User).where(User.name == "disabled")).one().is_active = False
        for name in (OPEN, FOREIGN):  # who contributed here once has no role any more
            assert founder.delete(f"/api/v1/models/{name}/members/author").status_code == 204
        yield made


def no_model(answer: Any, model: str, method: str = "GET", *, hub: bool = False) -> bool:
    """Say whether an answer means that there is no such model."""
    if hub:
        return answer.headers.get("x-error-code") == "RepoNotFound" and answer.status_code in (401, 404)
    if method == "HEAD":
        return answer.status_code == 404
    detail = f"There is no model {model}; `crumb model list` shows those that you may see."
    return answer.status_code == 404 and answer.json()["detail"] == detail


def expected(place: Place, way: Way, actor: str | None, model: str) -> str:
    """Return what the table of rules requires: 401, 403, 404 or `in`."""
    rule, namespace = way.rule, model.partition("/")[0]
    if actor == "disabled" and way.lenient:
        actor = None
    if actor == "disabled" or (actor is None and rule.role > Role.ANYONE):
        return "401"
    if way.about_a_model:
        role = place.role(actor, model)
        if role is Role.NONE:
            return "404"
        return "in" if role >= rule.role or (rule.author and actor == "author") else "403"
    if rule.on == "namespace" and "namespace" in way.parameters:
        return "in" if place.role_in(actor, namespace) >= rule.role else "403"
    return "403" if rule.role is Role.ADMIN and actor != "chief" else "in"


def found(answer: Any, way: Way, model: str) -> str:
    """Return what a route did: 401, 403, 404 (no such model), or `in`."""
    if way.about_a_model and no_model(answer, model, way.method, hub=way.lenient):
        return "404"
    if answer.status_code in (401, 403):
        return str(answer.status_code)
    return "in" if answer.status_code < 500 else f"broke: {answer.status_code}"


def sentence(answer: Any) -> str:
    """Return the message of a refusal."""
    body = answer.json()
    return str(body["detail"] if "detail" in body else body["error"])


def anonymous(answer: Any) -> str:
    """Return the text of an answer without the id of its request."""
    return str(answer.text.replace(answer.headers["x-request-id"], "ID"))


def events(place: Place) -> int:
    """Count the rows of the audit log."""
    with place.world.database.read() as session:
        return session.scalars(select(func.count()).select_from(AuditEvent)).one()


@pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor or "anonymous")
def test_every_route_lets_in_whom_the_rules_let_in_and_nobody_else(place: Place, actor: str | None) -> None:
    before, wrong = events(place), []
    for way in place.ways:
        for model in (OPEN, SHUT, FOREIGN):
            answer = place.ask(way, model, place.secrets[actor])
            wanted, got = expected(place, way, actor, model), found(answer, way, model)
            if wanted != got:
                wrong.append(f"{way.method} {way.path} on {model} ({way.action}): {got}, not {wanted}: {answer.text}")
            if not way.about_a_model and "namespace" not in way.parameters:
                break  # it is about no model
    assert not wrong, "\n".join(wrong)
    assert events(place) == before, "a request that means nothing changed something"


@pytest.mark.parametrize("actor", ["owner", "author", None], ids=lambda actor: actor or "anonymous")
def test_a_private_model_of_others_looks_like_a_name_that_nobody_has(place: Place, actor: str | None) -> None:
    def shape(way: Way, model: str) -> tuple[Any, ...]:
        answer = place.ask(way, model, place.secrets[actor])
        headers = {
            name: value.replace(model, "NAME") for name, value in answer.headers.items() if name != "x-request-id"
        }
        headers.pop("content-length", None)
        body = None
        if answer.content:
            body = answer.json()
            assert way.lenient or body.pop("instance") == answer.headers["x-request-id"]
            body["error" if way.lenient else "detail"] = sentence(answer).replace(model, "NAME")
        return answer.status_code, headers, body

    for way in filter(lambda way: way.about_a_model, place.ways):
        hidden = shape(way, FOREIGN)
        assert hidden == shape(way, ABSENT) == shape(way, NOWHERE), way
        assert hidden[0] == (401 if actor is None and (way.lenient or way.rule.role > Role.ANYONE) else 404)


def test_every_route_has_a_policy_or_is_a_static_file(place: Place) -> None:
    assert open_paths(place.world.app) == {"/static"}
    assert len(place.ways) > 60


def test_no_route_that_changes_something_is_open_to_all_or_to_a_reading_token(place: Place) -> None:
    for way in place.ways:
        changes = not way.reads and way.path != "/api/validate-yaml"  # which only says that a card is well
        if changes and way.action not in (*BY_ADDRESS, *BY_STRANGERS):
            assert way.rule.role > Role.ANYONE, way
            assert way.rule.scope != "read" or way.action in FOR_READERS, way


ACTIONS = """
DELETE admin/invitations/{invitation_id}                    admin.manage
DELETE namespaces/{namespace}/invitations/{invitation_id}   invitation.manage
DELETE mail                                                 account.manage
DELETE publishers/{publisher_id}                            publisher.manage
DELETE sessions/accounts/{account_id}                       account.manage
DELETE sessions/{session_id}                                account.manage
DELETE watch                                                model.watch
GET    admin/invitations                                    admin.read
GET    admin/users                                          admin.read
GET    mail                                                 user.read
GET    namespaces/{namespace}/invitations                   invitation.manage
GET    news                                                 inbox.list
GET    publishers                                           publisher.manage
GET    sessions                                             user.read
PATCH  admin/users/{user}                                   admin.manage
PATCH  profile                                              account.manage
POST   admin/invitations                                    admin.manage
POST   admin/invitations/refuse                             admin.manage
POST   admin/invitations/{invitation_id}/approve            admin.manage
POST   admin/users                                          admin.manage
POST   device                                               device.ask
POST   device/decide                                        token.manage
POST   device/token                                         device.ask
POST   joining                                              join.ask
POST   joining/accept                                       join.accept
POST   mail/confirm                                         account.manage
POST   mail/unsubscribe                                     mail.unsubscribe
POST   namespaces/{namespace}/invitations                   invitation.manage
POST   news/seen                                            news.see
POST   publishers                                           publisher.manage
POST   publishing/token                                     publisher.exchange
PUT    mail                                                 account.manage
PUT    patches/{number}/comments/{comment_id}               comment.edit
PUT    watch                                                model.watch
DELETE compositions/{recipe}                                recipe.delete
DELETE members/{user}                                       model.manage
DELETE namespaces/{namespace}/members/{user}                namespace.manage
DELETE releases/{version}/pin                               release.pin
DELETE tokens/{token_id}                                    token.manage
DELETE uploads/{upload_id}                                  upload
DELETE webhooks/{webhook_id}                                webhook.manage
GET    admin/jobs                                           admin.read
GET    admin/namespaces                                     admin.read
GET    admin/settings                                       admin.read
GET    admin/quarantine                                     admin.read
GET    admin/reports                                        admin.read
GET    admin/summary                                        admin.read
GET    admin/workers                                        admin.read
GET    audit                                                model.audit
GET    /api/v1/audit                                        audit.read
GET    inbox                                                inbox.list
GET    inbox                                                inbox.read
GET    /metrics                                             admin.read
GET    namespaces/{namespace}                               namespace.read
GET    tokens                                               user.read
GET    uploads/{upload_id}                                  upload
GET    webhooks                                             webhook.manage
GET    webhooks/{webhook_id}                                webhook.manage
GET    webhooks/{webhook_id}/deliveries                     webhook.manage
GET    whoami                                               user.read
GET    /api/models/{namespace}/{name}/auth-check/write      patch.push
GET    /api/whoami-v2                                       user.read
PATCH  releases/{version}                                   release.cut
PATCH  webhooks/{webhook_id}                                webhook.manage
PATCH  {namespace}/{name}                                   model.manage
POST   admin/reports/{report_id}/close                      admin.manage
POST   /api/models/{namespace}/{name}/discussions/{number}/comment    patch.comment
POST   /api/models/{namespace}/{name}/discussions/{number}/comment/{comment_id}/edit    comment.edit
POST   /api/models/{namespace}/{name}/discussions/{number}/comment/{comment_id}/hide    comment.delete
POST   /api/models/{namespace}/{name}/discussions/{number}/merge    patch.accept
POST   /api/models/{namespace}/{name}/discussions/{number}/status    patch.comment
POST   builds                                               build.report
POST   cards                                                patch.push
POST   cards/{number}/accept                                patch.accept
POST   cards/{number}/reject                                patch.reject
POST   cards/{number}/withdraw                              patch.withdraw
POST   channels/{channel}/rollback                          channel.move
POST   compositions                                         recipe.compose
POST   conflicts                                            conflict.ask
POST   evaluations                                          evaluation.add
POST   jobs/{job_id}/cancel                                 job.cancel
POST   models                                               model.create
POST   namespaces                                           namespace.create
POST   patches                                              patch.push
POST   patches/{number}/accept                              patch.accept
POST   patches/{number}/comments                            patch.comment
POST   patches/{number}/comments/{comment_id}/delete        comment.delete
POST   patches/{number}/propose                             patch.propose
POST   patches/{number}/reject                              patch.reject
POST   patches/{number}/reviews                             patch.review
POST   patches/{number}/revisions                           patch.revise
POST   patches/{number}/unyank                              patch.yank
POST   patches/{number}/withdraw                            patch.withdraw
POST   patches/{number}/yank                                patch.yank
POST   releases                                             release.cut
POST   releases/{version}/publish                           release.publish
POST   releases/{version}/yank                              release.yank
POST   reports                                              report.create
POST   tokens                                               token.manage
POST   uploads                                              upload
POST   uploads/{upload_id}/complete                         upload
POST   webhooks                                             webhook.manage
POST   webhooks/{webhook_id}/deliveries/{delivery_id}/replay    webhook.manage
POST   webhooks/{webhook_id}/test                           webhook.manage
POST   /api/lfs/{upload_id}/complete                        upload.part
POST   /api/models/{namespace}/{name}/commit/{rev}          name.push
POST   /api/models/{namespace}/{name}/preupload/{rev}       name.push
POST   /api/models/{namespace}/{name}/discussions           patch.push
POST   /api/repos/create                                    upload
POST   /api/validate-yaml                                   server.read
POST   /{namespace}/{name}.git/info/lfs/objects/batch       name.push
POST   /{namespace}/{name}.git/info/lfs/objects/verify      name.push
PUT    /api/lfs/{upload_id}/parts/{number}                  upload.part
PUT    admin/namespaces/{namespace}/quota                   admin.manage
PUT    admin/policy                                         admin.manage
PUT    cards/{number}                                       patch.revise
PUT    channels/{channel}                                   channel.move
PUT    channels/{channel}/protection                        channel.protect
PUT    evaluations                                          evaluation.add
PUT    members/{user}                                       model.manage
PUT    namespaces/{namespace}/members/{user}                namespace.manage
PUT    patches/{number}/comments/{comment_id}/hidden        comment.hide
PUT    patches/{number}/quarantine                          patch.quarantine
PUT    releases/{version}/pin                               release.pin
PUT    releases/{version}/signature                         release.publish
PUT    uploads/{upload_id}/parts/{number}                   upload
"""


def test_every_route_is_the_action_that_it_is_called(place: Place) -> None:
    """Only this list notices a route with a wrong action. Routes that are not in it are open to all."""

    def short(path: str) -> str:
        for start in ("/api/v1/models/{namespace}/{name}/", "/api/v1/models/", "/api/v1/"):
            if path.startswith(start) and path != "/api/v1/audit":
                return path.removeprefix(start)
        return path

    wanted = {tuple(line.split()) for line in ACTIONS.strip().splitlines()}
    found = {
        (way.method, short(way.path), way.action) for way in place.ways if not way.reads or way.rule.role > Role.ANYONE
    }
    assert found == wanted


def test_whatever_names_a_model_or_patch_in_its_path_is_judged_on_it(place: Place) -> None:
    for way in place.ways:
        assert way.about_a_model == ("name" in way.parameters), way
        if way.rule.on == "patch":
            assert "number" in way.parameters, way
        if way.rule.author:
            assert way.rule.on == "patch", way


def test_a_name_that_no_model_may_have_is_no_model(place: Place) -> None:
    for name in ("a\0/b", "crew/a\0", "crew/Open", "CREW/open", "crew/open%", "crew/\u202eopen"):
        for secret in place.secrets.values():
            namespace, _, rest = name.partition("/")
            answer = place.ask(way_of(place, "GET", "/api/v1/models/{namespace}/{name}"), name, secret)
            assert answer.status_code in (401, 404), (name, answer.text)
            answer = place.ask(way_of(place, "GET", "/api/v1/namespaces/{namespace}"), namespace + rest, secret)
            assert answer.status_code in (401, 404), (name, answer.text)


def way_of(place: Place, method: str, path: str) -> Way:
    """Return a way by its name."""
    return next(way for way in place.ways if (way.method, way.path) == (method, path))


# ----------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_without_the_scope_is_refused_with_the_missing_one(place: Place, scope: str) -> None:
    secret = place.token("owner", tuple(other for other in SCOPES if other != scope))
    for way in place.ways:
        model = FOREIGN if way.rule.scope == scope and way.about_a_model else OPEN  # it does not even say what is there
        answer = place.ask(way, model, secret)
        if way.rule.scope == scope:
            assert answer.status_code == 403, way
            assert way.method == "HEAD" or f"'{scope}'" in sentence(answer), way
        else:
            assert found(answer, way, model) == expected(place, way, "owner", model), way


def test_an_owner_is_not_named_as_who_could_give_the_rights_of_an_admin() -> None:
    assert access.refusal("patch.quarantine", RULES["patch.quarantine"], "a/b") == (
        "This needs an admin of the registry (patch.quarantine on a/b)."
    )


def test_every_rule_asks_for_an_existing_scope(place: Place) -> None:
    assert {rule.scope for rule in RULES.values()} == set(SCOPES)


@pytest.mark.parametrize("why", ["expired", "revoked", "unknown", "not bearer", "empty", "of another case"])
def test_a_token_that_is_no_good_is_refused_on_every_route(place: Place, why: str) -> None:
    secret = place.token("owner")
    header = {
        "unknown": f"Bearer hf_{'0' * 40}",
        "not bearer": f"Basic {secret}",
        "empty": "Bearer ",
        "of another case": f"Bearer {secret.swapcase()}",
    }.get(why, f"Bearer {secret}")
    with place.world.database.write() as session:
        row = session.scalars(select(Token).where(Token.prefix == secret[:9]).order_by(Token.created_at)).all()[-1]
        if why == "expired":
            row.expires_at = now() - timedelta(seconds=1)
        if why == "revoked":
            row.revoked_at = now()
    for way in place.ways:
        answer = place.http.request(way.method, place.url(way, OPEN), headers={"Authorization": header})
        if way.lenient:  # the Hub's clients send the token that they have: it is as none
            assert found(answer, way, OPEN) == expected(place, way, None, OPEN), way
        else:
            assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), way


def test_a_token_for_one_model_does_nothing_to_another(place: Place) -> None:
    for mine, other in ((OPEN, SHUT), (SHUT, OPEN)):
        secret = place.token("owner", model=mine)
        for way in filter(lambda way: way.about_a_model, place.ways):
            assert found(place.ask(way, mine, secret), way, mine) == expected(place, way, "owner", mine), way
            got = found(place.ask(way, other, secret), way, other)
            if other == SHUT:
                assert got == "404", way  # a private model is not even there
            else:
                everybodys = way.rule.scope == "read" and way.rule.role <= Role.CONTRIBUTOR
                assert got == ("in" if everybodys else "403"), way


def test_a_token_for_one_model_makes_no_tokens_and_no_names(place: Place) -> None:
    secret = place.token("owner", model=OPEN)
    headers = {"Authorization": f"Bearer {secret}"}
    files = [{"path": "model.safetensors", "sha256": "0" * 64}]
    for method, path, body in (
        ("POST", "/api/v1/tokens", {"scopes": ["read"]}),
        ("DELETE", f"/api/v1/tokens/{uuid.uuid4()}", None),
        ("POST", "/api/v1/namespaces", {"name": "fresh"}),
        ("PUT", "/api/v1/namespaces/band/members/stranger", {"role": "owner"}),
        ("DELETE", "/api/v1/namespaces/band/members/contributor", None),
        ("POST", "/api/v1/models", {"name": "band/fresh", "files": files}),
    ):
        answer = place.http.request(method, path, json=body, headers=headers)
        assert answer.status_code == 403, (method, path, answer.text)
        assert "one model" in answer.json()["detail"] or "another model" in answer.json()["detail"]


def test_a_token_for_one_model_lists_no_other_private_one(place: Place) -> None:
    place.token("owner", model=SHUT)
    mine = {"Authorization": f"Bearer {place.token('owner', model=OPEN)}"}
    whole = {"Authorization": f"Bearer {place.secrets['owner']}"}

    def named(headers: dict[str, str]) -> set[str]:
        return {model["name"] for model in place.http.get("/api/v1/models", headers=headers).json()["items"]}

    assert named(whole) == {OPEN, SHUT}
    assert named(mine) == named({}) == {OPEN}
    assert SHUT in place.http.get("/api/v1/tokens", headers=whole).text
    assert SHUT not in place.http.get("/api/v1/tokens", headers=mine).text


def test_an_admin_is_none_without_the_scope_or_with_a_token_for_one_model(place: Place) -> None:
    show = way_of(place, "GET", "/api/v1/models/{namespace}/{name}")
    assert place.ask(show, FOREIGN, place.secrets["chief"]).json()["role"] == "admin"
    for secret in (
        place.token("chief", ("read", "push", "review", "release")),
        place.token("chief", model=OPEN),
    ):
        whoami = place.http.get("/api/v1/whoami", headers={"Authorization": f"Bearer {secret}"})
        assert whoami.json()["admin"] is False
        for way in filter(lambda way: way.about_a_model, place.ways):
            got = found(place.ask(way, FOREIGN, secret), way, FOREIGN)
            assert got == ("403" if way.rule.scope not in whoami.json()["scopes"] else "404"), way
            if way.rule.role is Role.ADMIN:
                assert found(place.ask(way, OPEN, secret), way, OPEN) == "403", way


# ------------------------------------------------------------------------------------------- what is somebody else's


def test_what_belongs_to_another_model_looks_like_what_does_not_exist(place: Place) -> None:
    """`vault/secret` has a second patch; the public model has only one."""

    def words(way: Way, number: str) -> tuple[int, str]:
        answer = place.ask(way, OPEN, place.secrets["chief"], number=number)
        text = anonymous(answer).replace(f"#{number}", "#N").replace(f" {number} -", " N -")  # also in a command
        return answer.status_code, text

    mine = place.http.get(f"/api/v1/models/{FOREIGN}/patches/2", headers=bearer(place, "chief"))
    assert mine.status_code == 200
    for way in place.ways:
        if way.about_a_model and "number" in way.parameters:
            assert words(way, "2") == words(way, "77"), way


def test_the_author_of_a_patch_is_not_the_author_of_its_number_elsewhere(place: Place) -> None:
    for way in place.ways:
        if way.rule.author:
            answer = place.ask(way, OPEN, place.secrets["founder"], number="1")
            role = Role.OWNER  # the founder of the namespace, and author of vault/secret#2 alone
            assert found(answer, way, OPEN) == ("in" if role >= way.rule.role else "403"), way
            answer = place.ask(way, OPEN, place.secrets["stranger"], number="2")
            assert answer.status_code == 404, way


def bearer(place: Place, user: str) -> dict[str, str]:
    """Return the headers of an actor."""
    return {"Authorization": f"Bearer {place.secrets[user]}"}


def test_foreign_keys_look_like_keys_that_nobody_has(place: Place) -> None:
    stranger, founder = bearer(place, "stranger"), bearer(place, "founder")
    sha256 = digest(b"of the stranger")
    session = place.http.post("/api/v1/uploads", json={"sha256": sha256, "size": 15}, headers=stranger).json()
    token = place.http.post("/api/v1/tokens", json={"scopes": ["read"]}, headers=stranger).json()
    body = {"alpha": "0.3", "patches": [{"number": 1}]}
    job = place.http.post(f"/api/v1/models/{FOREIGN}/compositions", json=body, headers=founder).json()["job"]
    for way, key, whose in (
        ("GET /api/v1/uploads/{}", session["id"], "chief"),
        ("PUT /api/v1/uploads/{}/parts/0", session["id"], "chief"),
        ("POST /api/v1/uploads/{}/complete", session["id"], "chief"),
        ("DELETE /api/v1/uploads/{}", session["id"], "chief"),
        ("DELETE /api/v1/tokens/{}", token["id"], "chief"),
        ("GET /api/v1/jobs/{}", job["id"], "stranger"),
        ("GET /api/v1/jobs/{}", job["id"], None),
        ("POST /api/v1/jobs/{}/cancel", job["id"], "stranger"),
        ("POST /api/v1/jobs/{}/cancel", job["id"], "owner"),
    ):
        method, path = way.split()
        answers = []
        for given in (key, str(uuid.uuid4())):
            part = {"Content-Digest": "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}
            headers = {**(bearer(place, whose) if whose else {}), **part}
            answer = place.http.request(method, path.format(given), headers=headers, content=b"")
            answers.append((answer.status_code, anonymous(answer)))
        assert answers[0] == answers[1], way
        assert answers[0][0] == 404, way
    # ... and those whose they are have them still
    assert place.http.get(f"/api/v1/uploads/{session['id']}", headers=stranger).status_code == 200
    assert place.http.delete(f"/api/v1/uploads/{session['id']}", headers=stranger).status_code == 204
    assert place.http.delete(f"/api/v1/tokens/{token['id']}", headers=stranger).status_code == 204
    cancelled = place.http.post(f"/api/v1/jobs/{job['id']}/cancel", headers=founder)
    assert cancelled.json()["state"] == "cancelled"


def test_a_recipe_that_only_another_model_has_composed_is_not_there(place: Place) -> None:
    headers, founder = bearer(place, "owner"), bearer(place, "founder")
    body = {"alpha": "0.7", "patches": [{"number": 1}]}
    made = place.http.post(f"/api/v1/models/{FOREIGN}/compositions", json=body, headers=founder).json()
    if made["job"]:
        place.world.work()
    recipe = made["recipe"]["digest"]
    assert place.http.get(f"/api/v1/models/{FOREIGN}/revisions/{recipe}", headers=founder).status_code == 200
    build = {"weights_digest": f"sha256:{'0' * 64}"}
    asked = []
    for given in (recipe, "f" * 64):
        answers = (
            place.http.get(f"/api/v1/models/{OPEN}/revisions/{given}", headers=headers),
            place.http.get(f"/api/v1/models/{OPEN}/revisions/{given}/files/config.json", headers=headers),
            place.http.get(f"/api/v1/models/{OPEN}/recipes/{given}/builds", headers=headers),
            place.http.post(f"/api/v1/models/{OPEN}/builds", json={"recipe": given, **build}, headers=headers),
        )
        asked.append([(answer.status_code, anonymous(answer).replace(given, "D")) for answer in answers])
    assert asked[0] == asked[1]
    assert [status for status, _ in asked[0]] == [404, 404, 200, 404]


def test_knowing_a_digest_grants_nothing(place: Place) -> None:
    """Bytes of a private model or a quarantined patch must be sent in full by whoever names their digest."""
    headers, founder, chief = (bearer(place, user) for user in ("stranger", "founder", "chief"))
    shown = place.http.get(f"/api/v1/models/{FOREIGN}/revisions/base", headers=founder).json()["files"]
    weights = next(file for file in shown if file["path"] == "config.json")
    body = {"sha256": weights["sha256"], "size": weights["size"]}
    before = place.http.post("/api/v1/uploads", json=body, headers=headers)
    assert before.status_code == 200  # crew/open, which everybody may read, has the same base
    place.http.delete(f"/api/v1/uploads/{before.json()['id']}", headers=headers)
    quarantine = f"/api/v1/models/{OPEN}/patches/1/quarantine"
    size = place.http.get(f"/api/v1/models/{OPEN}/patches/1", headers=headers).json()["size"]
    assert place.http.put(quarantine, json={"reason": "looks odd"}, headers=chief).status_code == 200
    try:
        for sha256 in (place.patches[OPEN], place.patches[FOREIGN], place.patches[SHUT]):
            refused = []
            for given in (sha256, digest(b"nobody has this")):
                announced = place.http.post("/api/v1/uploads", json={"sha256": given, "size": size}, headers=headers)
                session = announced.json()
                assert (announced.status_code, session["state"]) == (201, "open")
                assert session["missing"] == list(range(-(-size // session["part_size"])))
                complete = place.http.post(f"/api/v1/uploads/{session['id']}/complete", headers=headers)
                files = [{"path": "model.safetensors", "sha256": given}]
                model = place.http.post("/api/v1/models", json={"name": "stranger/x", "files": files}, headers=headers)
                patch = place.http.post(
                    f"/api/v1/models/{OPEN}/patches", json={"sha256": given, "title": "x"}, headers=headers
                )
                assert (complete.status_code, model.status_code) == (409, 422)
                if given != place.patches[OPEN]:  # which is there to see, as crew/open#1
                    assert patch.status_code == 422
                assert place.http.delete(f"/api/v1/uploads/{session['id']}", headers=headers).status_code == 204
                refused.append((complete.json()["detail"], model.json()["detail"]))
            assert refused[0] == refused[1]
    finally:
        assert place.http.put(quarantine, json={"reason": None}, headers=chief).status_code == 200


def test_nobody_reserves_room_in_a_namespace_that_they_cannot_fill(place: Place) -> None:
    body = {"sha256": digest(b"for others"), "size": 10, "namespace": "band"}
    for user in ("stranger", "contributor", "reviewer", "author"):
        refused = place.http.post("/api/v1/uploads", json=body, headers=bearer(place, user))
        assert refused.status_code == 403, (user, refused.text)
    for user in ("maintainer", "owner", "chief"):
        session = place.http.post("/api/v1/uploads", json=body, headers=bearer(place, user))
        assert session.status_code == 201, (user, session.text)
        place.http.delete(f"/api/v1/uploads/{session.json()['id']}", headers=bearer(place, user))


# ------------------------------------------------------------------------------------ privilege ends with membership


def test_a_user_who_loses_the_role_during_a_request_is_refused(place: Place) -> None:
    owner, founder = bearer(place, "newcomer"), bearer(place, "founder")
    spaces = "/api/v1/namespaces/vault/members"

    def body() -> Iterator[bytes]:
        yield b'{"role": '
        with place.world.database.write() as session:
            user = session.scalars(select(User).where(User.name == "newcomer")).one()
            space = session.scalars(select(Namespace).where(Namespace.name == "vault")).one()
            session.delete(session.get_one(NamespaceMember, (space.id, user.id)))
        yield b'"owner"}'

    assert place.http.put(f"{spaces}/newcomer", json={"role": "owner"}, headers=founder).status_code == 204
    headers = {**owner, "Content-Type": "application/json"}
    try:
        answer = place.http.put(f"{spaces}/newcomer", content=body(), headers=headers)
        assert answer.status_code == 403, answer.text
    finally:
        place.http.delete(f"{spaces}/newcomer", headers=founder)


def test_a_user_who_leaves_a_private_model_no_longer_sees_its_jobs(place: Place) -> None:
    newcomer, founder = bearer(place, "newcomer"), bearer(place, "founder")
    where, body = f"/api/v1/models/{FOREIGN}", {"alpha": "0.1", "patches": [{"number": 1}]}
    given = place.http.put(f"{where}/members/newcomer", json={"role": "contributor"}, headers=founder)
    assert given.status_code == 204
    job = place.http.post(f"{where}/compositions", json=body, headers=newcomer).json()["job"]["id"]
    try:
        assert place.http.get(f"/api/v1/jobs/{job}", headers=newcomer).status_code == 200
        assert place.http.delete(f"{where}/members/newcomer", headers=founder).status_code == 204
        assert place.http.get(f"/api/v1/jobs/{job}", headers=newcomer).status_code == 404
        assert place.http.post(f"/api/v1/jobs/{job}/cancel", headers=newcomer).status_code == 404
    finally:
        place.http.post(f"/api/v1/jobs/{job}/cancel", headers=bearer(place, "chief"))


USERS = ("stranger", "author", "contributor")
GRANTS = (None, "contributor", "reviewer", "maintainer", "owner")


class Memberships(RuleBasedStateMachine):
    """Roles on a namespace and its model change; at each step, each of three users may do what their role allows."""

    place: Place

    @initialize()
    def nobody(self) -> None:
        self.here: dict[str, str] = {}
        self.there: dict[str, str] = {}
        self.active = dict.fromkeys(USERS, True)
        self.public = True
        with self.place.world.database.write() as session:
            for user in session.scalars(select(User).where(User.name.in_(USERS))):
                user.is_active = True
                for table in (ModelMember, NamespaceMember):
                    session.execute(sqlalchemy.delete(table).where(table.user_id == user.id))
                own = session.scalars(select(Namespace.id).where(Namespace.name == user.name)).one()
                session.add(NamespaceMember(namespace_id=own, user_id=user.id, role="owner"))
        self.change("PATCH", "models/lab/thing", {"visibility": "public"})

    def change(self, method: str, path: str, body: Any = None) -> int:
        answer = self.place.http.request(method, f"/api/v1/{path}", json=body, headers=bearer(self.place, "founder"))
        assert answer.status_code < 300 or answer.status_code == 404, answer.text
        return answer.status_code

    @rule(user=strategies.sampled_from(USERS), role=strategies.sampled_from(GRANTS), model=strategies.booleans())
    def grant(self, user: str, role: str | None, model: bool) -> None:
        held = self.here if model else self.there
        where = f"{'models/lab/thing' if model else 'namespaces/lab'}/members/{user}"
        if role is None:
            assert self.change("DELETE", where) == (204 if user in held else 404)
            held.pop(user, None)
        else:
            assert self.change("PUT", where, {"role": role}) == 204
            held[user] = role

    @rule(public=strategies.booleans())
    def show(self, public: bool) -> None:
        self.change("PATCH", "models/lab/thing", {"visibility": "public" if public else "private"})
        self.public = public

    @rule(user=strategies.sampled_from(USERS), active=strategies.booleans())
    def enable(self, user: str, active: bool) -> None:
        with self.place.world.database.write() as session:
            session.scalars(select(User).where(User.name == user)).one().is_active = active
        self.active[user] = active

    def may(self, user: str, needed: Role) -> int:
        """Return the status of a request that needs a role: 200 means that it is allowed."""
        if not self.active[user]:
            return 401
        roles = [Role[held[user].upper()] for held in (self.here, self.there) if user in held]
        best = max(roles, default=Role.CONTRIBUTOR if self.public else Role.NONE)
        return 404 if best is Role.NONE else 200 if best >= needed else 403

    @invariant()
    def everybody_may_what_they_may(self) -> None:
        for user in USERS:
            for method, path, needed in (
                ("GET", "", Role.ANYONE),
                ("POST", "/patches", Role.CONTRIBUTOR),
                ("POST", "/patches/1/accept", Role.MAINTAINER),
                ("PATCH", "", Role.OWNER),
            ):
                url = f"/api/v1/models/lab/thing{path}"
                body = None if method == "GET" else NONSENSE
                answer = self.place.http.request(method, url, json=body, headers=bearer(self.place, user))
                status = 200 if answer.status_code == 422 else answer.status_code
                assert status == self.may(user, needed), (user, method, path)


def test_privilege_ends_when_membership_ends(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    with contextlib.ExitStack() as undo:
        headers = bearer(place, "founder")
        assert place.http.post("/api/v1/namespaces", json={"name": "lab"}, headers=headers).status_code == 201
        create_model(place.world, "lab/thing", make_checkpoint(tmp_path_factory.mktemp("lab")), "founder")
        undo.callback(restore, place)
        machine = type("Machine", (Memberships,), {"place": place})
        few = settings(max_examples=6, stateful_step_count=10, deadline=None)
        run_state_machine_as_test(machine, settings=few)


def restore(place: Place) -> None:
    """Give the three users back the roles that other tests expect, and hide the model from them."""
    with place.world.database.write() as session:
        for user in session.scalars(select(User).where(User.name.in_(USERS))):
            user.is_active = True
            for table in (ModelMember, NamespaceMember):
                session.execute(sqlalchemy.delete(table).where(table.user_id == user.id))
            member(session, user.name, user.name, "owner")
        member(session, SHUT, "author", "contributor")
        for where in (OPEN, "band"):
            member(session, where, "contributor", "contributor")
        session.scalars(select(Model).where(Model.namespace == "lab")).one().visibility = "private"
