"""Access: every route with every role, on one's own models and others'."""

from typing import Any

import pytest

from registry.services.people.rules import Role
from tests.support.places import (
    ABSENT,
    ACTORS,
    FOREIGN,
    NOWHERE,
    OPEN,
    SHUT,
    Place,
    events,
    expected,
    found,
    sentence,
    way_of,
)
from tests.support.routes import Way, open_paths

pytestmark = pytest.mark.heavy
BY_ADDRESS = ("upload.part",)  # the Hub's tools send parts without a token, to an address that only they were given
BY_STRANGERS = (
    "join.ask",
    "join.accept",
    "device.ask",
    "publisher.exchange",
    "mail.unsubscribe",
)  # who have no token, but a secret or a wish
FOR_READERS = ("report.create", "conflict.ask")  # who sees it may say that it is bad, and ask how patches meet


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
