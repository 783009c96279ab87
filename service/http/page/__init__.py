"""The operator's page: a template for each page, and what the pages share.

`sessions` says who is there and makes the forms' one-time tokens, `forms` turns what was typed into
values, `rendering` turns values into pages. The routes are in `service.http.routes.pages`.
"""
