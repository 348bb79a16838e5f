/**
 * `check` and `explain`: what the operator's files say; `events`: what the
 * agent's log says. They need no agent;
 * `explain --live` asks one. What reads the files is loaded when it is asked
 * for: the other commands, and completion at a prompt, start quicker without.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { EVENTS } from '../core/events.ts';
import { PROTOCOLS } from '../core/words.ts';
import { FILTER_PROTOCOLS } from '../policy/filters.ts';
import { json, socket } from './client.ts';
import type { Trial } from './explain.ts';
import type { PacketTrial } from './explain-packet.ts';
import { explainUse } from './help.ts';
import { printJson, printPairs } from './print.ts';

export function registerOffline(program: Command): void {
  explainUse(
    program
      .command('events')
      .description("what the agent's log lines mean, by the name in their field `event`")
      .addOption(json())
      .action(printEvents),
    {
      examples: [
        'mtgate events | grep crl',
        'journalctl --unit mtgate --output cat | jq \'select(.level == "error")\'',
      ],
    },
  );
  explainUse(
    program
      .command('check [folder]')
      .description('check the rule files of a folder (and agent.yaml), then run their policy tests')
      .option('--config <file>', 'agent.yaml; its rules folder is the default, and the rules are held against it')
      .addOption(json())
      .action(async (folder: string | undefined, options: { config?: string; json?: boolean }) =>
        (await import('./check.ts')).check(folder, options),
      ),
    {
      more: 'Errors name file:line:column. It changes nothing; `mtgate diff` says what an apply would.',
      examples: ['mtgate check --config /etc/mtgate/agent.yaml', 'mtgate check rules'],
    },
  );
  const explain = explainUse(
    program.command('explain').description('say what would become of a request, or of a packet, and why'),
    { examples: ['mtgate explain request --help', 'mtgate explain packet --help'] },
  );
  explainUse(
    explain
      .command('request', { isDefault: true })
      .description('say what would become of a request: every step, the rule that decides, and why')
      .requiredOption('--server <name>', 'the MTC server that asks')
      .requiredOption('--device <id>', 'external identifier, or (with --live) MSISDN')
      .addOption(new Option('--protocol <protocol>', 'of the flow').choices(PROTOCOLS).default('udp'))
      .requiredOption('--port <port>', 'of the device', wholeNumber(1, 65_535))
      .option('--duration <seconds>', 'asked for', wholeNumber(1, 2 ** 31), 600)
      .option('--from <address>', "where the request comes from (default: the first of the server's sources)")
      .option('--rules <folder>', 'the rule files (default: those of --config, else of the folder rules)')
      .option('--config <file>', 'agent.yaml: take its rules, devices and realms')
      .option('--live', 'ask the running agent: its policy, bindings, quotas and rates; without --rules and --config')
      .addOption(socket())
      .addOption(json())
      .action(async (trial: Trial) => (await import('./explain.ts')).explainTrial(trial)),
    {
      more: 'The status is 0 whatever the verdict: the question was answered.',
      examples: [
        'mtgate explain request --live --server acme-head-end --device m1@meters.acme.example --port 5683',
        'mtgate explain request --rules rules --server acme-head-end --device m1@meters.acme.example --port 23 --protocol tcp',
      ],
    },
  );
  registerExplainPacket(explain);
}

function registerExplainPacket(explain: Command): void {
  const fromTo = 'an address outside, inside:ADDRESS, or a device such as m1@meters.example';
  explainUse(
    explain
      .command('packet')
      .description('say what the gateway would do with a packet that begins a flow: guards, grant, filters, base')
      .requiredOption('--from <end>', fromTo)
      .requiredOption('--to <end>', `${fromTo} (by its name: its endpoint in a grant)`)
      .addOption(new Option('--protocol <protocol>', 'of the packet').choices(FILTER_PROTOCOLS).default('udp'))
      .option('--port <port>', 'destination port; to a grant: of the device', wholeNumber(1, 65_535))
      .option('--source-port <port>', 'of a device that answers a grant: its port', wholeNumber(1, 65_535))
      .option('--type <name>', 'of icmp and icmpv6, such as echo-request')
      .option(
        '--granted-to <server>',
        'a grant of this server on the device, its protocol and its port is taken to live',
      )
      .option('--rules <folder>', 'the rule files (default: those of --config, else of the folder rules)')
      .option('--config <file>', 'agent.yaml: take its rules, realms and deniedDestinations')
      .addOption(json())
      .action(async (trial: PacketTrial) => (await import('./explain-packet.ts')).explainPacket(trial)),
    {
      more: 'The status is 0 whatever the verdict: the question was answered.',
      examples: [
        'mtgate explain packet --from 192.0.2.1 --to inside:10.20.0.2 --protocol icmp --type echo-request',
        'mtgate explain packet --from 198.51.100.10 --to m1@meters.acme.example --port 5683 --granted-to acme-head-end',
      ],
    },
  );
}

/** The log's events, each with what it means. */
function printEvents({ json: asJson }: { json?: boolean }): void {
  if (asJson) printJson(EVENTS);
  else printPairs(Object.entries(EVENTS));
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
