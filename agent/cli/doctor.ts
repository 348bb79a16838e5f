/** `doctor`: is this host fit for mtgate, and what to do where it is not. */
import type { Command } from 'commander';
import type { Config } from '../config.ts';
import { agentCheck, type Check, examine, HOST_CHECKS, siteChecks } from '../doctor/checks.ts';
import { ok, unknown, warn } from '../doctor/finding.ts';
import { loadConfig } from '../files.ts';
import type { Status } from '../status.ts';
import { type Ask, call, json, socket } from './client.ts';
import { EXIT, explainUse } from './help.ts';
import { count, print, printJson, printLines, table } from './print.ts';

/** A doctor asks; it does not wait for one who is hung. */
const PATIENCE_MS = 5_000;

export function registerDoctor(program: Command): void {
  explainUse(
    program
      .command('doctor')
      .description('look at the host: kernel, tools, sysctls, interfaces, clock, disk, rights; and what to do')
      .option('--config <file>', 'agent.yaml', '/etc/mtgate/agent.yaml')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask & { config: string }) => {
        const site = siteOf(ask.config);
        const rows = await examine([...HOST_CHECKS, ...site, agentRow(ask)]);
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
      }),
    {
      more: 'Needs no agent and changes nothing. Whoever is not root is told less.',
      examples: ['mtgate doctor', 'mtgate doctor --config ./agent.yaml --json'],
    },
  );
}

/** What follows from agent.yaml, or the row that says why nothing does. */
function siteOf(file: string): readonly Check[] {
  let config: Config;
  try {
    config = loadConfig(file, () => {});
  } catch (fault) {
    const { message, cause } = fault as Error;
    const { code } = (cause ?? {}) as NodeJS.ErrnoException;
    if (code === 'EACCES') return [{ name: 'agent.yaml', look: () => Promise.reject(cause) }];
    const advice =
      code === 'ENOENT' ? 'Name it by --config; an example is agent.yaml.example.' : 'mtgate check --config';
    return [{ name: 'agent.yaml', look: () => ({ level: 'bad', found: message, advice }) }];
  }
  return [{ name: 'agent.yaml', look: () => ok(`${file} is valid`) }, ...siteChecks(config, Date.now())];
}

/** No agent is no fault of the host: it may not be started yet. */
function agentRow(ask: Ask): Check {
  const { name, look } = agentCheck(() => call<Status>(ask, 'GET', '/status', undefined, PATIENCE_MS));
  return {
    name,
    async look() {
      try {
        return await look();
      } catch (fault) {
        const { code, message } = fault as NodeJS.ErrnoException;
        if (code === 'socketDenied')
          return unknown('not allowed to ask it', 'Ask again as root, or join group mtgate.');
        return warn(message, 'Start it; until then nothing new is granted.');
      }
    },
  };
}
