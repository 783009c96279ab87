// Lint an OpenAPI document with Redocly's rules: node redocly.mjs FILE
// This is the engine of `redocly lint`, without the parts of that command that make pages.
import { createConfig, formatProblems, getTotals, lint } from "@redocly/openapi-core";

const config = await createConfig({ extends: ["recommended"] });
const problems = await lint({ ref: process.argv[2], config });
formatProblems(problems, { totals: getTotals(problems), format: "stylish", version: "" });
process.exit(problems.length ? 1 : 0);
