#!/usr/bin/env node
/**
 * The `mtgate` command: one table of commands. `check` and `explain` read the
 * operator's files and need no agent; the others are clients of the agent's
 * management socket.
 *
 * Exit codes: 0 done; 1 refused, or invalid files; 2 wrong words on the
 * command line; 3 no agent on the socket.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import type { CertificateStatus } from './api/expiry.ts';
import type { BindingRow, GrantRow } from './api/management.ts';
import { type Ask, call, json, socket } from './cli/client.ts';
import { addDenialCommands } from './cli/denials.ts';
import { count, print, printable, printLines, printRows } from './cli/print.ts';
import { AgentError } from './core/errors.ts';
import { type Family, parseAddress } from './core/net.ts';
import { entryCount, poolMebibytes } from './core/pool.ts';
import { PROTOCOLS, type Protocol, parseExternalId, type ServerName } from './core/words.ts';
import { loadConfig, loadDevices, loadPolicy } from './files.ts';
import { decide, type Question } from './policy/decide.ts';
import { describeAuthorised, explain } from './policy/explain.ts';
import { NO_USAGE } from './policy/policy.ts';

const NOT_RUNNING = 3;

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

/** What a reload has put in force, and what of it is of no use. */
interface Reloaded {
  readonly policy: string;
  readonly devices: number;
  readonly liveGrants: number;
  readonly unusable: readonly CertificateStatus[];
}

const program = new Command('mtgate')
  .description('The firewall agent of a PGW/UPF host: what is granted passes, all else is closed.')
  .addHelpText('after', '\nExit codes: 0 done; 1 refused or invalid; 2 wrong words; 3 no agent on the socket.')
  .exitOverride()
  .configureHelp({ showGlobalOptions: true });

program
  .command('check [folder]')
  .description('check the rule files of a folder (and agent.yaml), then run their policy tests')
  .option('--config <file>', 'agent.yaml; its rules folder is the default, and the rules are held against it')
  .action((folder: string | undefined, { config: file }: { config?: string }) => {
    const warn = (warning: string) => print(`warning: ${warning}`);
    const config = file === undefined ? undefined : loadConfig(file, warn);
    const rules = folder ?? config?.rules;
    if (rules === undefined) throw new CommanderError(2, 'mtgate.check', 'name a folder of rule files, or --config');
    const policy = loadPolicy(rules, config, warn);
    if (config) {
      const { grants } = config.pools;
      print(`grants pool: ${entryCount(grants)} entries, ${poolMebibytes(grants)} MiB in the kernel`);
      print(`devices: ${loadDevices(config).length}`);
    }
    const { servers, mtcUsers, allows, denies, tests } = policy;
    print(
      `policy ${policy.version}: ${count(servers.size, 'server')}, ${count(mtcUsers.size, 'MTC user')}, ${count(allows.length + denies.length, 'rule')}`,
    );
    for (const user of describeAuthorised(policy))
      print(`  ${user.mtcUser} authorises ${user.servers.join(', ') || 'nobody'}`);
    print(`${count(tests.length, 'policy test')} passed`);
  });

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
  .action(async (trial: Trial) => {
    if (!trial.live) return printLines(explainOffline(trial));
    const { server, device, protocol, port, duration, from } = trial;
    const asked = { server, device, protocol, port, durationSeconds: duration, ...(from !== undefined && { from }) };
    const { lines, why } = await call<{ lines?: string[]; why?: string }>(trial, 'POST', '/explain', asked);
    printLines(lines ?? [why ?? '']);
  });

program
  .command('status')
  .description('is it closed, what hangs where, which policy, how many grants')
  .addOption(socket())
  .addOption(json())
  .action(async (ask: Ask) => {
    const status = await call<Record<string, unknown>>(ask, 'GET', '/status');
    if (ask.json) return print(JSON.stringify(status, null, 2));
    for (const [name, value] of Object.entries(status)) {
      print(`${name.padEnd(22)} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`);
    }
  });

const grants = program.command('grants').description('the live grants');
grants
  .command('list', { isDefault: true })
  .description('list them, with what the outside never learns')
  .addOption(socket())
  .addOption(json())
  .action(async (ask: Ask) => {
    const rows = await call<GrantRow[]>(ask, 'GET', '/grants');
    printRows(ask, rows, [
      'grantId',
      'server',
      'device',
      'protocol',
      'inner',
      'external',
      'applicationServer',
      'expiresAt',
    ]);
  });
grants
  .command('revoke <grantId>')
  .description('end one: its packets stop at once')
  .addOption(socket())
  .action(async (id: string, ask: Ask) => {
    await call(ask, 'DELETE', `/grants/${encodeURIComponent(id)}`);
    print(`ended ${printable(id)}`);
  });

const device = program.command('device').description('which device holds which inner address');
device
  .command('list', { isDefault: true })
  .description('list the bindings')
  .addOption(socket())
  .addOption(json())
  .action(async (ask: Ask) => {
    printRows(ask, await call<BindingRow[]>(ask, 'GET', '/bindings'), [
      'device',
      'realm',
      'address',
      'source',
      'since',
    ]);
  });
device
  .command('bind <device> <realm> <address>')
  .description('a device has an address now; grants that rested on the former state end')
  .addOption(socket())
  .action(async (name: string, realm: string, address: string, ask: Ask) => {
    await call(ask, 'POST', '/bindings', { device: name, realm, address });
    print(`bound ${printable(name)} to ${printable(address)} in ${printable(realm)}`);
  });
device
  .command('unbind <device> <realm> <address>')
  .description('a device has an address no more; its grants there end')
  .addOption(socket())
  .action(async (name: string, realm: string, address: string, ask: Ask) => {
    await call(ask, 'DELETE', '/bindings', { device: name, realm, address });
    print(`unbound ${printable(name)} from ${printable(address)} in ${printable(realm)}`);
  });

addDenialCommands(program);

program
  .command('reload')
  .description('read rule files, devices file and certificates again; nothing changes where one is invalid')
  .addOption(socket())
  .action(async (ask: Ask) => {
    const { policy, devices, liveGrants, unusable } = await call<Reloaded>(ask, 'POST', '/reload', {});
    print(`in force: policy ${policy}, ${devices} devices, ${liveGrants} live grants`);
    for (const { kind, name, why } of unusable)
      print(`not usable: ${kind} ${printable(name)}: ${printable(why ?? '')}`);
  });

/** Judged by the files alone: nobody holds a grant, and a device that is in no file is bound in both families. */
function explainOffline({ server, device, protocol, port, duration, from, rules, config: file }: Trial): string[] {
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
  return explain(policy, question, decide(policy, question));
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

program.parseAsync().catch((fault) => {
  if (fault instanceof CommanderError) {
    // Commander has printed what is its own; our own usage errors it has not.
    if (fault.code.startsWith('mtgate.')) process.stderr.write(`mtgate: ${fault.message}\n`);
    process.exitCode = fault.exitCode === 0 ? 0 : 2;
    return;
  }
  const advice = fault instanceof AgentError ? `\n${fault.advice}` : '';
  process.stderr.write(`${fault.message}${advice}\n`);
  process.exitCode = fault instanceof AgentError && fault.code === 'notRunning' ? NOT_RUNNING : 1;
});
