"""The same job as most projects do it: Django, Celery and Anymail by their manuals, and `send.delay()` in `on_commit`.

It is here to be lost against: a storm in which this one loses nothing, and sends nothing twice, was none.
"""
