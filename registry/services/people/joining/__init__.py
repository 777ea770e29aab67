"""How people come in: invitations, accounts that admins make, identities at a provider, logins by a code."""
