"""What Postroom costs and bears, measured: each figure beside its peer or its limit, in the same run.

`python -m bench [name …] [--quick]` runs modules of this package that have a `NAME` and
`async def run(setting: Setting) -> list[Row]`.
"""
