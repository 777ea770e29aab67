"""Views: what a request may read, as the shapes of the API, from a session and often from rows of another view.

The API's routes and the pages call the same views, so a page shows what the API answers. A function named for a noun
gives the shape of a row that is at hand; the others query.
"""
