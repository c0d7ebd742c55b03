// What every small agent here needs: where Gatehouse is, and a tool that runs a command.
import { spawnSync } from "node:child_process";

export const { GATEHOUSE_URL: URL, GATEHOUSE_API_KEY: KEY, GATEHOUSE_MODEL: MODEL } = process.env;
export const ROUNDS = 8;
export const NAME = "run_command";
export const ABOUT = "Run a shell command and return its output";
export const PARAMETERS = { type: "object", properties: { command: { type: "string" } }, required: ["command"] };
export const CUT = "\n[cut by the length limit]";

export function runCommand({ command }) {
  const ran = spawnSync("sh", ["-c", command], { encoding: "utf8", timeout: 60000, stdio: ["ignore", "pipe", "pipe"] });
  return (ran.stdout + ran.stderr).trim() || `exit code ${ran.status}`;
}

export async function main(modes) {
  try {
    console.log(await modes[process.argv[2]](process.argv[3]));
  } catch (error) {
    console.error(`${error.constructor.name}: ${error.message}`);
    process.exitCode = 1;
  }
}
