/** What the doctor found, as a page or as JSON. Loaded when it is asked for. */
import type { Config } from '../config.ts';
import { type Check, examine, HOST_CHECKS, siteChecks } from '../doctor/checks.ts';
import { bad, ok, unknown, warn } from '../doctor/finding.ts';
import { judgeAgent } from '../doctor/host-judgements.ts';
import { loadConfig } from '../files/operator-files.ts';
import type { Status } from '../use-cases/status.ts';
import { type Ask, call } from './client.ts';
import { EXIT } from './help.ts';
import { count, print, printJson, printLines, table } from './print.ts';

/** A doctor asks; it does not wait for one who is hung. */
const PATIENCE_MS = 5_000;

export interface Patient extends Ask {
  readonly config: string;
}

export async function examineHost(ask: Patient): Promise<void> {
  const site = await siteOf(ask.config);
  const rows = await examine([...HOST_CHECKS, ...site, agentCheck(ask)]);
  const worst = rows.filter(({ level }) => level === 'bad');
  if (ask.json) printJson(rows);
  else {
    printLines(table(rows.map(({ name, level, found }) => [level, name, found])));
    const advised = rows.filter(({ advice }) => advice !== undefined);
    if (advised.length > 0) print('What to do:');
    printLines(table(advised.map(({ name, advice = '' }) => [`  ${name}`, advice])));
    print(`${count(rows.length, 'check')}, ${worst.length} bad`);
  }
  process.exitCode = worst.length > 0 ? EXIT.refused : EXIT.done;
}

/** What follows from agent.yaml, or the row that says why nothing does. */
async function siteOf(file: string): Promise<readonly Check[]> {
  let config: Config;
  try {
    config = loadConfig(file, () => {});
  } catch (fault) {
    const { message, cause } = fault as Error;
    const { code } = (cause ?? {}) as NodeJS.ErrnoException;
    if (code === 'EACCES') return [{ name: 'agent.yaml', look: () => Promise.reject(cause) }];
    const [first = '', ...more] = message.split('\n');
    const advice = code === 'ENOENT' ? 'Write it, or name it by --config.' : `All of it: mtgate check --config ${file}`;
    return [{ name: 'agent.yaml', look: () => bad(more.length > 0 ? `${first} …` : first, advice) }];
  }
  return [{ name: 'agent.yaml', look: () => ok(`${file} is valid`) }, ...(await siteChecks(config, Date.now()))];
}

/** No agent is no fault of the host: it may not be started yet. */
function agentCheck(ask: Ask): Check {
  return {
    name: 'agent',
    async look() {
      try {
        return judgeAgent(await call<Status>(ask, 'GET', '/status', undefined, PATIENCE_MS));
      } catch (fault) {
        const { code, message } = fault as NodeJS.ErrnoException;
        if (code === 'socketDenied')
          return unknown('not allowed to ask it', 'Ask again as root, or join group mtgate.');
        return warn(message, 'Start it; until then nothing new is granted.');
      }
    },
  };
}
