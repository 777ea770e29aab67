"""All tables.

    users ─< tokens ─< sign_ins              what a user may do, from a command or a browser
          ─< identities, device_logins       other ways to sign in: by a provider, by a code
    users ── mail_addresses                  where their news go by e-mail
    users ─< invitations >─ namespaces       links by which people join, or get a role
    namespaces ─< namespace_members >─ users     where names live
    users ─< upload_sessions ─< upload_parts   bytes on their way in
    blobs                                    stored bytes, by sha256
    models ─< base_files >─ blobs            a name pinned to one base
           ─< base_tensors
           ─< model_members >─ users
           ─< watches >─ users               who wants to know what happens in it
           ─< publishers ─< tokens           workflows elsewhere that may push to it
           ─< model_tags, model_trigrams     how it is found
           ─< model_downloads                how often it was downloaded
           ─< patches ─< patch_revisions >─ blobs
                         patch_revisions ─< revision_files >─ blobs
                         patch_revisions ─< patch_tensors, checks, reviews
              patches ─< comments ─< comment_edits
              patches ── card_proposals     another card of the model, in place of weights
              patches ─< mentions >─ users      who was named in a thread
              patches ── pushes ─< pushed_files >─ blobs   what tools of the Hub send for a patch
           ─< evaluations                    of the base, a patch revision, a release or a recipe
    recipes ─< recipe_items                  what to compose, by content alone
    models ─< compositions ─< composition_files >─ blobs
           ─< builds                         who composed a recipe, and the result
           ─< releases ─< release_files >─ blobs
           ─< channels ─< channel_moves, channel_votes
           ─< webhooks ─< webhook_deliveries >─ audit_events
    patch_pairs, patch_sets                  what patches have in common, by content alone
    jobs, workers                            work, and the processes that do it
    jobs ─< job_parts >─ blobs               weight files of a composition that is under way
    models ─< reports >─ users               what a user says should not be here
    audit_events, audit_heads                who did what and when, chained by hashes
    registry_ids                             which registry this is
    mirrors, mirrored_rows                   which registry it follows, and what comes from there
    mirror_problems, moderated_rows          which of its models are not here, and what admins took down here

    models            empty ──> importing ──> ready      (a failed import deletes the row: the name is free again)
    blobs             live <──> doomed ──> (deleted)
                      remote ── its bytes are stored here ──> live
    upload_sessions   open ──> done ──> (deleted when expired)
    jobs              queued ──> running ──> done | failed | cancelled
                        ^──────────┘ worker died or stopped
    patches, patch_revisions, releases: drawn in patches.py and releases.py

Keys are UUIDs, names are never keys; times are UTC; enums are text with a CHECK; every constraint has a name.
A digest column holds 64 lowercase hex digits; `base_digest` and `weights_digest` are written `sha256:<hex>`.
"""

from registry.db.tables.compositions import Build, Composition, CompositionFile, Recipe, RecipeItem
from registry.db.tables.conflicts import PatchPair, PatchSet
from registry.db.tables.contents import (
    ELSEWHERE,
    STORED,
    BaseFile,
    BaseTensor,
    Blob,
    Model,
    ModelDownloads,
    ModelMember,
    ModelTag,
    ModelTrigram,
    UploadPart,
    UploadSession,
)
from registry.db.tables.declare import Table, UTCDateTime, after, now
from registry.db.tables.mirrors import Mirror, MirroredFile, MirroredRow, MirrorProblem, ModeratedRow
from registry.db.tables.news import MailAddress, Mention, WatchedModel
from registry.db.tables.operations import (
    ACTIVE_JOBS,
    JOB_KINDS,
    AuditEvent,
    AuditHead,
    Job,
    JobPart,
    Policy,
    RegistryId,
    Report,
    Webhook,
    WebhookDelivery,
    Worker,
)
from registry.db.tables.patches import (
    PATCH_STATES,
    CardProposal,
    Check,
    Comment,
    CommentEdit,
    Evaluation,
    Patch,
    PatchRevision,
    PatchTensor,
    Review,
    RevisionFile,
)
from registry.db.tables.people import (
    ROLES,
    DeviceLogin,
    Identity,
    Invitation,
    Namespace,
    NamespaceMember,
    SignIn,
    Token,
    User,
)
from registry.db.tables.publishers import PUBLISHER_KINDS, Publisher, UsedIdentity
from registry.db.tables.pushes import Push, PushedFile
from registry.db.tables.releases import Channel, ChannelMove, ChannelVote, Release, ReleaseFile

__all__ = [
    "ACTIVE_JOBS",
    "ELSEWHERE",
    "JOB_KINDS",
    "PATCH_STATES",
    "PUBLISHER_KINDS",
    "ROLES",
    "STORED",
    "AuditEvent",
    "AuditHead",
    "BaseFile",
    "BaseTensor",
    "Blob",
    "Build",
    "CardProposal",
    "Channel",
    "ChannelMove",
    "ChannelVote",
    "Check",
    "Comment",
    "CommentEdit",
    "Composition",
    "CompositionFile",
    "DeviceLogin",
    "Evaluation",
    "Identity",
    "Invitation",
    "Job",
    "JobPart",
    "MailAddress",
    "Mention",
    "Mirror",
    "MirrorProblem",
    "MirroredFile",
    "MirroredRow",
    "Model",
    "ModelDownloads",
    "ModelMember",
    "ModelTag",
    "ModelTrigram",
    "ModeratedRow",
    "Namespace",
    "NamespaceMember",
    "Patch",
    "PatchPair",
    "PatchRevision",
    "PatchSet",
    "PatchTensor",
    "Policy",
    "Publisher",
    "Push",
    "PushedFile",
    "Recipe",
    "RecipeItem",
    "RegistryId",
    "Release",
    "ReleaseFile",
    "Report",
    "Review",
    "RevisionFile",
    "SignIn",
    "Table",
    "Token",
    "UTCDateTime",
    "UploadPart",
    "UploadSession",
    "UsedIdentity",
    "User",
    "WatchedModel",
    "Webhook",
    "WebhookDelivery",
    "Worker",
    "after",
    "now",
]
