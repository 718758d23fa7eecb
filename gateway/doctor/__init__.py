"""`postroom doctor`: whether a deployment is well, from end to end, and what to do where it is not.

    report       findings, and how they are shown
    deployment   the secret, Postgres, Redis, clocks
    listening    listeners and their certificate
    own_domains  MX, SPF, DKIM, DMARC of the domains
    ways_out     our name and addresses, the providers of OUTBOUND
    traffic      what waits, what was complained of, one-click unsubscribing

Nothing is changed, and nothing is sent unless asked for. Every check is bounded in time; what a check cannot know is a
warning. The only public functions for others are in gateway.doctor.examining.
"""
