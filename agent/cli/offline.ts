/**
 * `check` and `explain`: what the operator's files say. They need no agent;
 * `explain --live` asks one.
 */
import { type Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import type { Config } from '../config.ts';
import { AgentError } from '../core/errors.ts';
import { type Family, parseAddress } from '../core/net.ts';
import { entryCount, poolMebibytes } from '../core/pool.ts';
import { PROTOCOLS, type Protocol, parseExternalId, type ServerName } from '../core/words.ts';
import { loadConfig, loadDevices, loadPolicy } from '../files.ts';
import { decide, type Question } from '../policy/decide.ts';
import { describeAuthorised, explain } from '../policy/explain.ts';
import { NO_USAGE } from '../policy/policy.ts';
import { type Ask, call, json, socket } from './client.ts';
import { explainUse } from './help.ts';
import { count, print, printJson, printLines } from './print.ts';

interface Trial extends Ask {
  readonly server: string;
  readonly device: string;
  readonly protocol: Protocol;
  readonly port: number;
  readonly duration: number;
  readonly from?: string;
  readonly rules: string;
  readonly config?: string;
  readonly live?: boolean;
}

/** What was explained: the verdict in a word, and every step in a line. */
interface Explained {
  readonly verdict: string;
  readonly lines: readonly string[];
}

export function registerOffline(program: Command): void {
  explainUse(
    program
      .command('check [folder]')
      .description('check the rule files of a folder (and agent.yaml), then run their policy tests')
      .option('--config <file>', 'agent.yaml; its rules folder is the default, and the rules are held against it')
      .addOption(json())
      .action((folder: string | undefined, options: { config?: string; json?: boolean }) => check(folder, options)),
    {
      more: 'Errors name file:line:column. Run it before every reload; it changes nothing.',
      examples: ['mtgate check --config /etc/mtgate/agent.yaml', 'mtgate check rules'],
    },
  );
  explainUse(
    program
      .command('explain')
      .description('say what would become of a request: every step, the rule that decides, and why')
      .requiredOption('--server <name>', 'the MTC server that asks')
      .requiredOption('--device <id>', 'external identifier, or (with --live) MSISDN')
      .addOption(new Option('--protocol <protocol>', 'of the flow').choices(PROTOCOLS).default('udp'))
      .requiredOption('--port <port>', 'of the device', wholeNumber(1, 65_535))
      .option('--duration <seconds>', 'asked for', wholeNumber(1, 2 ** 31), 600)
      .option('--from <address>', "where the request comes from (default: the first of the server's sources)")
      .option('--rules <folder>', 'the rule files', 'rules')
      .option('--config <file>', 'agent.yaml: take its rules and devices')
      .option('--live', 'ask the running agent: its policy, bindings, quotas and rates')
      .addOption(socket())
      .addOption(json())
      .action(async (trial: Trial) => {
        const explained = trial.live ? await explainLive(trial) : explainOffline(trial);
        if (trial.json) printJson(explained);
        else printLines(explained.lines);
      }),
    {
      more: 'The status is 0 whatever the verdict: the question was answered.',
      examples: [
        'mtgate explain --live --server acme-head-end --device m1@meters.acme.example --port 5683',
        'mtgate explain --rules rules --server acme-head-end --device m1@meters.acme.example --port 23 --protocol tcp',
      ],
    },
  );
}

function check(folder: string | undefined, options: { config?: string; json?: boolean }): void {
  // People read what is known as it becomes known; a fault further on does not take it back.
  const say = options.json ? () => {} : print;
  const warnings: string[] = [];
  const warn = (warning: string) => {
    warnings.push(warning);
    say(`warning: ${warning}`);
  };
  const config = options.config === undefined ? undefined : loadConfig(options.config, warn);
  const rules = folder ?? config?.rules;
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

async function explainLive(trial: Trial): Promise<Explained> {
  const { server, device, protocol, port, duration, from } = trial;
  const asked = { server, device, protocol, port, durationSeconds: duration, ...(from !== undefined && { from }) };
  const answer = await call<Explained | { refused: string; why: string }>(trial, 'POST', '/explain', asked);
  return 'lines' in answer ? answer : { verdict: answer.refused, lines: [answer.why] };
}

/** Judged by the files alone: nobody holds a grant, and a device that is in no file is bound in both families. */
function explainOffline({ server, device, protocol, port, duration, from, rules, config: file }: Trial): Explained {
  const config = file === undefined ? undefined : loadConfig(file, () => {});
  const policy = loadPolicy(config?.rules ?? rules, config, () => {});
  const externalId = parseExternalId(device);
  if (!externalId)
    throw new CommanderError(2, 'mtgate.explain', `"${device}" is no external identifier (local@domain)`);
  const known = policy.servers.get(server as ServerName);
  if (!known) throw new AgentError('rulesInvalid', `no server "${server}" in the rule files`);
  const requestAddress = from === undefined ? known.apiSources[0]?.address : parseAddress(from);
  if (!requestAddress) throw new CommanderError(2, 'mtgate.explain', `"${from}" is no IP address`);
  const listed = config && loadDevices(config).find((one) => one.device.externalId === externalId);
  const boundFamilies: Family[] = listed ? listed.bindings.map((inner) => inner.address.family) : ['ipv4', 'ipv6'];
  const question: Question = {
    server: known.name,
    device: config && !listed ? undefined : { externalId, boundFamilies },
    protocol,
    port,
    durationSeconds: duration,
    requestAddress,
    usage: NO_USAGE,
  };
  const decision = decide(policy, question);
  return { verdict: decision.verdict, lines: explain(policy, question, decision) };
}

function wholeNumber(low: number, high: number) {
  return (text: string): number => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < low || value > high) {
      throw new InvalidArgumentError(`Expected a whole number from ${low} to ${high}.`);
    }
    return value;
  };
}
