/**
 * The commands that say who was turned away: `denials`, `refusals`, `why`.
 */
import { type Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import type { DenialList, DenialRow, RefusalRow, WhyAnswer } from '../api/denial-routes.ts';
import { HANDSHAKES } from '../core/handshakes.ts';
import { parseAddress } from '../core/net.ts';
import { BASE_DENIALS, DENIALS } from '../core/reasons.ts';
import { REFUSALS } from '../core/refusals.ts';
import { DENIAL_KINDS } from '../inspector/denials.ts';
import { type Ask, call, follow, json, socket } from './client.ts';
import { explainUse } from './help.ts';
import { count, print, printJson, printPairs, printRows } from './print.ts';

interface DenialsAsk extends Ask {
  readonly kind?: string;
  readonly reason?: string;
  readonly source?: string;
  readonly mtcUser?: string;
  readonly limit: string;
  readonly follow?: true;
}

interface RefusalsAsk extends Ask {
  readonly server?: string;
  readonly device?: string;
  readonly reason?: string;
  readonly limit: string;
}

const limit = () =>
  new Option('--limit <number>', 'how many, the newest first').default('100').argParser((text) => {
    if (/^[1-9]\d{0,3}$/.test(text)) return text;
    throw new InvalidArgumentError('Expected a whole number from 1 to 9999.');
  });

export function registerDenials(program: Command): void {
  explainUse(
    program
      .command('denials')
      .description('who was turned away: packets, handshakes and requests, the newest first')
      .addOption(new Option('--kind <kind>', 'of this kind').choices(DENIAL_KINDS))
      .option('--reason <reason>', 'for this reason, such as wrongSource')
      .addOption(new Option('--source <address>', 'from this address').argParser(readSource))
      .option('--mtc-user <name>', 'toward endpoints of this MTC user')
      .addOption(limit())
      .option('--follow', 'go on: print each row that is new or has changed (with --json: a row a line)')
      .addOption(socket())
      .addOption(json())
      .action(listDenials),
    {
      more: 'What is alike but for its time is one row with a count. `mtgate why` takes its id.',
      examples: ['mtgate denials --follow', 'mtgate denials --kind packet --mtc-user acme'],
    },
  );

  explainUse(
    program
      .command('refusals')
      .description('requests that were not granted, each alone, the newest first')
      .option('--server <name>', 'of this MTC server')
      .option('--device <id>', 'for this device, as it was named')
      .option('--reason <reason>', 'for this reason, such as noRuleAllows')
      .addOption(limit())
      .addOption(socket())
      .addOption(json())
      .action(async (ask: RefusalsAsk) => {
        const { server, device, reason } = ask;
        await refuseUnknown(reason, Object.keys(REFUSALS));
        const path = `/refusals${query({ server, device, reason, limit: ask.limit })}`;
        const refusals = await call<RefusalRow[]>(ask, 'GET', path);
        const columns = ['at', 'reason', 'step', 'server', 'source', 'device', 'target', 'instance'] as const;
        printRows(ask, refusals, columns, 'no refusals');
      }),
    { examples: ['mtgate refusals --server acme-head-end', 'mtgate refusals --reason rateExceeded --json'] },
  );

  explainUse(
    program
      .command('why <id>')
      .description(
        'everything known of one denial (its id), refusal (its instance) or grant (its id): why, and what would have to change',
      )
      .addOption(socket())
      .addOption(json())
      .action(async (id: string, ask: Ask) => {
        const answer = await call<WhyAnswer>(ask, 'GET', `/why/${encodeURIComponent(id)}`);
        if (ask.json) return printJson(answer);
        const { now, toPass } = answer;
        const known = 'denial' in answer ? answer.denial : 'refusal' in answer ? answer.refusal : answer.grant;
        const changed = now?.hasChanged ? ', another than then' : '';
        printPairs([
          ...Object.entries(known).flatMap(([name, value]) => pairsOf(name, value)),
          ['meaning', answer.meaning],
          ...pairsOf('to pass', toPass),
          ...(now ? [['now', `policy ${now.policy}${changed}: ${now.why}`] as const] : []),
          ['what to do', answer.advice],
        ]);
      }),
    {
      more: 'The instance is what the asking server was told; with or without `urn:uuid:` before it.',
      examples: ['mtgate why urn:uuid:f81d4fae-7dec-41d0-a765-00a0c91e6bf6'],
    },
  );
}

/** As it stands in the rows: one text for each address, or that none could be read. */
function readSource(text: string): string {
  const address = text === 'unknown' ? text : parseAddress(text)?.text;
  if (address !== undefined) return address;
  throw new InvalidArgumentError('Expected an IP address, or unknown.');
}

/** A reason that is none meets no row, which would be read as that nobody was turned away. */
async function refuseUnknown(reason: string | undefined, known: readonly string[]): Promise<void> {
  if (reason === undefined || known.includes(reason)) return;
  const { unknownWord } = await import('../core/fields.ts');
  throw new CommanderError(2, 'mtgate.reason', `--reason: ${unknownWord('reason', reason, known)}`);
}

async function listDenials(ask: DenialsAsk): Promise<void> {
  const { kind, reason, source, mtcUser } = ask;
  await refuseUnknown(reason, [DENIALS, BASE_DENIALS, HANDSHAKES, REFUSALS].flatMap(Object.keys));
  const filter = { kind, reason, source, mtcUser };
  if (ask.follow) {
    for await (const line of follow(ask, `/denials/stream${query(filter)}`)) {
      const row = JSON.parse(line) as DenialRow;
      if (ask.json) printJson(row, 0);
      else print(denialLine(row));
    }
    return;
  }
  const list = await call<DenialList>(ask, 'GET', `/denials${query({ ...filter, limit: ask.limit })}`);
  if (ask.json) return printJson(list);
  const { seen, inspected, unsampled, lost, inspector } = list.packets;
  print(
    `${count(seen, 'packet')} denied since the start: ${inspected} inspected, ${unsampled} not sampled, ${lost} lost; the inspector: ${inspector.state}`,
  );
  const rows = list.denials.map((row) => ({ ...row, reason: reasonOf(row), whose: whoseOf(row) }));
  printRows(ask, rows, ['lastSeen', 'count', 'kind', 'reason', 'source', 'target', 'whose', 'id']);
}

/** A list is a line each; what has members, a text. */
function pairsOf(name: string, value: unknown): (readonly [string, string])[] {
  if (Array.isArray(value)) return value.map((item, i) => [i === 0 ? name : '', String(item)]);
  return [[name, typeof value === 'object' ? JSON.stringify(value) : String(value)]];
}

/** Whom a row concerns: whose endpoint a packet was for, or who asked. */
function whoseOf({ mtcUser, device, server }: DenialRow): string {
  return [server, mtcUser, device].filter((name) => name !== undefined).join(' ') || '-';
}

/** With the filter that dropped a packet. */
function reasonOf({ reason, rule }: DenialRow): string {
  return rule === undefined ? reason : `${reason} by ${rule}`;
}

function denialLine(row: DenialRow): string {
  const { lastSeen, count: times, kind, source, target, id } = row;
  return [lastSeen, `${times}x`, kind, reasonOf(row), source, '->', target, whoseOf(row), id].join(' ');
}

function query(words: Readonly<Record<string, string | undefined>>): string {
  const given = Object.entries(words).filter((word): word is [string, string] => word[1] !== undefined);
  return given.length > 0 ? `?${new URLSearchParams(given)}` : '';
}
