"use strict";
// The question of the page as `zoo find` asks it, for a shell; filters that the command lacks are left out.
zoo.asked = (() => {
  const { less } = zoo.records;
  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const BEYOND = ["q", "mixing", "weights"];

  function command(state) {
    const [, engine, dtype, batch, threads] = /^(\S+) (\S+) b(\d+) t(\d+)$/.exec(state.run) ?? [];
    const runtime = engine === "eager" ? "torch" : engine, usual = { runtime: "torch", dtype: "float32", batch: "1", threads: "1" };
    const options = [
      ["task", state.task || "''"], ["metric", state.metric], ["device", state.device], ["form", state.form],
      ...Object.entries({ runtime, dtype, batch, threads }).map(([name, value]) => [name, value === usual[name] ? "" : value]),
      [less(state.metric) ? "" : "min-metric", state.acc], ["max-latency-ms", state.ms], ["max-params", state.params && `${state.params}M`],
      ["max-macs", state.macs && `${state.macs}G`], ["max-memory", state.memory && `${state.memory}MiB`], ["block", state.block], ["family", state.family], ["licence", state.class],
    ].filter(([name, value]) => name && value);
    const flags = [...(state.sell ? ["--commercial"] : []), ...(state.front && state.across === "ms" ? ["--pareto"] : [])];
    return ["zoo find", ...options.map(([name, value]) => `--${name} ${value === "''" ? value : quoted(value)}`), ...flags, "--limit 0"].join(" ");
  }

  // Which filters of the page the command does without.
  const beyond = (state) => BEYOND.filter((key) => state[key]).map((key) => ({ q: "the search", mixing: "how tokens are mixed", weights: "the state of weights" })[key]);

  return { command, beyond };
})();
