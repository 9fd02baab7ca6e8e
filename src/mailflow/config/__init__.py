"""Loading the configuration: file, environment, secret files and `--set`, to one checked settings object.

    settings = Settings.load("mailflow.toml", environment=os.environ, overrides=["log.format=json"])
    settings.origin("relay.host")        # "mailflow.toml:12"

One `ConfigError` tells all mistakes (`errors.ConfigProblem`: file, line, key, accepted form), before anything has been
started. The steps: `raw` reads files and names, `sources` gathers, `texts` reads values out of text, `positions` knows
the lines, `check` judges, `suggest` guesses what was meant, `root` puts them in order, `show` writes the outcome down.
None of them knows the settings themselves: the root settings class inherits `Root`, the parts own their sections, this
package owns the format.

For commands that must start fast `peek` reads a few keys alone. Nothing is imported here, so that it stays alone.
"""
