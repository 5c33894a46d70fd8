"""The conformance kit: what every block is held to, with no code per block.

    from zoo.testing.conformance import check_block, check_file
    for result in check_file("my_block.py"):
        print(result.block, result.check, result.outcome, result.sentence)

A subject (zoo.testing.block_cases) is built from the schema of a block alone; zoo.testing.checks holds what is asked of all
blocks, zoo.testing.ability_checks what a block says of itself (abilities, folding), zoo.testing.members that no name is nearly one of
the contract, zoo.testing.applicable which check applies to which block of the core. zoo.testing.block_bench times subjects.
"""
