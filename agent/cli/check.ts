/** `check`: the operator's files, held against each other. */
import { CommanderError } from 'commander';
import type { Config } from '../config.ts';
import { entryCount, poolMebibytes } from '../core/pool.ts';
import { loadConfig, loadDevices, loadPolicy } from '../files.ts';
import { describeAuthorised } from '../policy/explain.ts';
import { count, print, printJson } from './print.ts';

export function check(folder: string | undefined, options: { config?: string; json?: boolean }): void {
  // People read what is known as it becomes known; a fault further on does not take it back.
  const say = options.json ? () => {} : print;
  const warnings: string[] = [];
  const warn = (warning: string) => {
    warnings.push(warning);
    say(`warning: ${warning}`);
  };
  const config = options.config === undefined ? undefined : loadConfig(options.config, warn);
  const rules = folder ?? config?.rules.folder;
  if (rules === undefined) throw new CommanderError(2, 'mtgate.check', 'name a folder of rule files, or --config');
  const policy = loadPolicy(rules, config, warn);
  const site = config && siteOf(config, say);
  const { version, servers, mtcUsers, allows, denies, tests } = policy;
  const ruleCount = allows.length + denies.length;
  say(
    `policy ${version}: ${count(servers.size, 'server')}, ${count(mtcUsers.size, 'MTC user')}, ${count(ruleCount, 'rule')}`,
  );
  const authorised = describeAuthorised(policy);
  for (const user of authorised) say(`  ${user.mtcUser} authorises ${user.servers.join(', ') || 'nobody'}`);
  say(`${count(tests.length, 'policy test')} passed`);
  const counted = { servers: servers.size, rules: ruleCount, policyTests: tests.length };
  if (options.json) printJson({ policy: version, ...counted, mtcUsers: authorised, ...site, warnings });
}

function siteOf(config: Config, say: (line: string) => void) {
  const { grants } = config.pools;
  const pool = { poolEntries: entryCount(grants), poolMebibytes: poolMebibytes(grants) };
  say(`grants pool: ${pool.poolEntries} entries, ${pool.poolMebibytes} MiB in the kernel`);
  const devices = loadDevices(config).length;
  say(`devices: ${devices}`);
  return { ...pool, devices };
}
