/** `check`: the operator's files, held against each other. */
import { CommanderError } from 'commander';
import type { Config } from '../config.ts';
import { AgentError } from '../core/errors.ts';
import { formatEndpoint } from '../core/net.ts';
import { entryCount, poolMebibytes } from '../core/pool.ts';
import { portsText } from '../core/trigger-plan.ts';
import { loadConfig, loadDevices, loadPolicy } from '../files/operator-files.ts';
import { describeAuthorised, describeGroups } from '../policy/explain.ts';
import { describeFilter } from '../policy/filters.ts';
import type { Policy } from '../policy/policy.ts';
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

  // What is wrong with the devices file and with the rule files is told together.
  const faults: AgentError[] = [];
  const devices = config && orFault(faults, () => loadDevices(config));
  const policy = orFault(faults, () => loadPolicy(rules, config, warn, devices));
  const found = policy && describe(policy, say);
  const site = config && {
    ...describePool(config, say),
    ...describeUntranslated(config, say),
    ...describeTriggers(config, say),
  };
  if (devices) say(`devices: ${devices.length}`);
  const [fault, another] = faults;
  if (fault && another) throw new AgentError(another.code, `${fault.message}\n${fault.advice}\n${another.message}`);
  if (fault) throw fault;
  if (options.json) printJson({ ...found, ...site, ...(devices && { devices: devices.length }), warnings });
}

function orFault<Result>(faults: AgentError[], load: () => Result): Result | undefined {
  try {
    return load();
  } catch (fault) {
    if (!(fault instanceof AgentError)) throw fault;
    faults.push(fault);
    return undefined;
  }
}

function describe(policy: Policy, say: (line: string) => void) {
  const { version, servers, mtcUsers: users, staged = policy } = policy;
  const rules = idsOf(policy);
  say(
    `policy ${version}: ${count(servers.size, 'server')}, ${count(users.size, 'MTC user')}, ${count(rules.length, 'rule')}`,
  );
  const triggerRules = triggerIdsOf(policy).length;
  if (triggerRules > 0) say(count(triggerRules, 'trigger rule'));
  if (policy.filters.length > 0) say(`${count(policy.filters.length, 'filter')}`);
  const standing = policy.filters.filter((filter) => filter.standing && !filter.staged);
  for (const filter of standing) say(`  standing: ${filter.id} opens ${describeFilter(filter)}, without a grant`);
  const mtcUsers = describeAuthorised(policy);
  for (const user of mtcUsers) say(`  ${user.mtcUser} authorises ${user.servers.join(', ') || 'nobody'}`);
  const seeInside = [...servers.values()].filter(({ nat }) => nat === 'none').map(({ name }) => name);
  for (const name of seeInside) say(`  not translated: ${name} sees inner addresses (nat: none)`);
  const groups = describeGroups(policy);
  for (const { group, of } of groups) say(`  group ${group}: ${of}`);
  const stagedFilters = policy.filters.filter((filter) => filter.staged).map(({ id }) => id);
  const stagedRules = [
    ...idsOf(staged).filter((id) => !rules.includes(id)),
    ...triggerIdsOf(staged).filter((id) => !triggerIdsOf(policy).includes(id)),
    ...stagedFilters,
  ];
  if (stagedRules.length > 0) say(`  staged, and not enforced: ${stagedRules.join(', ')}`);
  const tests = policy.tests.length + policy.triggerTests.length + policy.packetTests.length;
  say(`${count(tests, 'policy test')} passed`);
  const counted = {
    servers: servers.size,
    rules: rules.length,
    triggerRules,
    filters: policy.filters.length,
    standing: standing.map(({ id }) => id),
    policyTests: tests,
    ...(seeInside.length > 0 && { seeInside }),
  };
  return { policy: version, ...counted, stagedRules, mtcUsers, groups };
}

function idsOf({ allows, denies }: Policy): string[] {
  return [...allows, ...denies].map(({ id }) => id);
}

function triggerIdsOf({ triggerAllows, triggerDenies }: Policy): string[] {
  return [...triggerAllows, ...triggerDenies].map(({ id }) => id);
}

function describePool(config: Config, say: (line: string) => void) {
  const { grants } = config.pools;
  const pool = { poolEntries: entryCount(grants), poolMebibytes: poolMebibytes(grants) };
  say(`grants pool: ${pool.poolEntries} entries, ${pool.poolMebibytes} MiB in the kernel`);
  return pool;
}

function describeUntranslated({ inside }: Config, say: (line: string) => void) {
  const untranslated = inside.filter(({ nat }) => nat === 'none');
  for (const { realm, prefixes } of untranslated)
    say(`not translated: realm ${realm} (nat: none), known outside as ${prefixes.map(({ text }) => text).join(', ')}`);
  return untranslated.length > 0 ? { untranslatedRealms: untranslated.map(({ realm }) => realm) } : {};
}

function describeTriggers({ triggers }: Config, say: (line: string) => void) {
  if (!triggers) return {};
  const { ports, coapPorts, coapPath } = triggers;
  const sources = triggers.sources.map((address) => formatEndpoint({ address, port: triggers.sourcePort }));
  const coap = coapPorts.length > 0 ? `CoAP on ${portsText(coapPorts)} at /${coapPath.join('/')}` : 'plain UDP';
  say(`triggers: from ${sources.join(' and ')} alone, to ports ${portsText(ports)} (${coap})`);
  return {
    triggers: { sources, ports: portsText(ports), coapPorts: portsText(coapPorts), coapPath: coapPath.join('/') },
  };
}
