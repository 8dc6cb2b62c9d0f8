"""What weight files are made of, told from their bytes alone: nothing here imports, calls or unpickles anything.

The standard library is enough; `ppdiffusers.checkpoints` reads arrays by the same tables and checks.
"""
