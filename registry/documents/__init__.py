"""What a release promises and says: versions, licences, changelogs, cards, manifests. Pure functions, no database."""
