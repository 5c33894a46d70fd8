"""The commands of the command line, by the module that holds them, in the order of `zoo --help`.

A module's `add` says what its commands take, and a function of each what it does: it takes parsed arguments and returns an exit code.
Only the module of the command that is called is loaded; what a command needs beyond its grammar is imported when it runs.
"""

COMMANDS = {
    "catalogue": {
        "list": "the models, with parameters and MACs",
        "info": "all that is known of one model",
        "blocks": "the registered blocks, or one block's parameters",
    },
    "specs": {
        "spec": "a model's spec",
        "check": "check a spec file, or the blocks of a Python file",
        "schema": "JSON Schema 2020-12 of specs",
    },
    "models": {
        "create": "build a model and report what it is",
        "export": "write a model as a file that stands alone",
    },
    "predict": {"predict": "classify pictures, one or millions (`zoo find` predicts latencies)"},
    "evaluate": {"evaluate": "how good models are on labelled pictures, and which is better"},
    "language": {"generate": "continue a text with a language model"},
    "profiling": {"profile": "MACs, parameters and bytes of a model, exactly"},
    "measuring": {"bench": "measure latency on this machine, in fresh processes"},
    "choosing": {
        "calibrate": "measure the models that tell most, to predict the latencies of all here",
        "find": "the best models for a device and a budget",
        "pick": "measure the finalists for a budget, and write a folder with the best",
        "compare": "time models against each other on this machine, in turns",
    },
    "deploying": {
        "deploy": "try a model in every runtime that is installed, refuse what is not equal, keep the fastest"
    },
    "hub": {
        "push": "upload a model to a repository of the Hub",
        "pull": "fetch a repository of the Hub, verified, into a folder",
    },
    "supply": {
        "pin": "fetch listed weights, prove them against the spec, keep them",
        "lock": "write zoo.lock: the spec and the bytes of each name",
        "mirror": "copy all that a lock names into a folder, for ZOO_MIRROR",
        "cache": "weights files and compiled nets on this machine: list, verify, prune, clear",
        "audit": "who vouches for each file that weights are loaded from; exit code 1 on a stranger",
    },
    "training": {"train": "train a model on data at hand"},
    "sweep": {"sweep": "train a model by recipes drawn from ranges, and keep the best"},
    "studying": {"study": "does a new block learn better than others, at the same cost?"},
    "plugging": {
        "plugins": "the installed plugins, and whether they work",
        "new-plugin": "begin a package of your own blocks and models",
        "rename": "give a block another name; weights and records go with it",
        "index": "write the catalogue data of a plugin you are working on",
    },
    "families": {
        "card": "the page of a model's family, from the data that ships",
        "publish-family": "write all data that follow from a family's file, in a checkout",
    },
    "site": {"site": "write the pages of models, blocks and guides, for a browser and without a server"},
    "demo": {"demo": "run every embedded model on real held-out images, offline"},
    "doctor": {"doctor": "what this installation has, and what is broken"},
    "completing": {"completion": "a script that completes commands, options and models"},
}

TEXTS = {name: text for texts in COMMANDS.values() for name, text in texts.items()}
MODULES = {name: module for module, texts in COMMANDS.items() for name in texts}
