"""The operator's page: a template for each page, and the modules that the pages share.

`sessions` finds a visitor's session and makes the one-time tokens of forms. `forms` turns the
fields of a form into commands. `lookups` reads the data that a page shows, and `rendering` turns
values into pages. The routes are in `service.http.routes.pages`.
"""
