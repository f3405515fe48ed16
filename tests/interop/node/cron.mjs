// The next time of cron patterns, by the cron-parser that BullMQ uses. Standard input: a JSON list
// of [pattern, zone, ms]; standard output: a list of ms, or of the message of an error.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const outer = createRequire(join(process.env.TORIL_NODE_HOME, "package.json"));
const { CronExpressionParser } = createRequire(outer.resolve("bullmq"))("cron-parser");

const next = ([pattern, tz, ms]) => {
  try {
    return CronExpressionParser.parse(pattern, { currentDate: new Date(ms), tz }).next().getTime();
  } catch (error) {
    return String(error.message);
  }
};
console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(next)));
