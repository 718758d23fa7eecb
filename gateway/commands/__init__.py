"""The commands of `postroom`, apart from those that run it: a module for each word behind it.

    surroundings the environment of commands that are clients
    lazily       groups whose members are imported when they are called
    options      what options mean that many commands have
    output       results as JSON, tables or lines
    calling      the way to a running gateway
    looks        mail, events and e-mails as people read them

Modules import at their top only what is quick to import: the whole of `postroom --help` reads none of them.
"""
