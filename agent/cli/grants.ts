/** `grants`: list, show, revoke. */
import { type Command, CommanderError } from 'commander';
import type { GrantDetail, GrantRow, GrantRows } from '../api/operator-rows.ts';
import type { PacketLimits } from '../core/words.ts';
import { agreedTo } from './agreement.ts';
import { type Ask, call, Declined, json, socket } from './client.ts';
import { EXIT, explainUse } from './help.ts';
import { count, print, printable, printJson, printPairs, printRowsAsTheyCome } from './print.ts';
import { localTime, span } from './times.ts';

interface Filter extends Ask {
  readonly device?: string;
  readonly server?: string;
}

export const GRANT_COLUMNS = [
  'grantId',
  'status',
  'server',
  'device',
  'protocol',
  'inner',
  'external',
  'applicationServer',
  'expiresAt',
] as const satisfies readonly (keyof GrantRow)[];

export function registerGrants(program: Command): void {
  const grants = program.command('grants').description('grants: list those that live or wait, show one, end them');
  explainUse(
    filtered(grants.command('list', { isDefault: true }))
      .description('list the live grants and those that wait for their device, with what the outside never learns')
      .option('--limit <number>', 'no more than so many', readLimit)
      .action(async (ask: Filter & { limit?: number }) => {
        const { limit = Number.POSITIVE_INFINITY } = ask;
        const left = await printRowsAsTheyCome(
          ask,
          pagesOf(ask, limit),
          GRANT_COLUMNS,
          'no live grants, and none that wait',
        );
        if (left > 0) process.stderr.write(`and ${left} more\n`);
      }),
    {
      more: 'They are printed as they are read; grants that begin or end meanwhile may be among them or not.',
      examples: [
        'mtgate grants list --server acme-head-end',
        'mtgate grants list --device +491715550100 --json',
        'mtgate grants list --limit 20',
      ],
    },
  );

  explainUse(
    grants
      .command('show <grantId>')
      .description('all that is known of one, live or ended: rule, endpoints, times, packets, why it ended')
      .addOption(socket())
      .addOption(json())
      .action(async (id: string, ask: Ask) => {
        const grant = await call<GrantDetail>(ask, 'GET', `/grants/${encodeURIComponent(id)}`);
        if (ask.json) printJson(grant);
        else printPairs(pageOf(grant));
      }),
    {
      more: 'Ended grants are kept for 30 days; packets are counted until the endpoint has rested.',
      examples: ['mtgate grants show 01M86C3MNB6MH6MFDTWNJ2S086'],
    },
  );

  explainUse(
    filtered(grants.command('revoke [grantIds...]'))
      .description('end grants: their packets stop at once')
      .option('--yes', 'do not ask, whatever the number')
      .action(async (ids: readonly string[], ask: Filter & { yes?: boolean }) => {
        const byFilter = ask.device !== undefined || ask.server !== undefined;
        if (byFilter === ids.length > 0)
          throw new CommanderError(2, 'mtgate.revoke', 'name grants by their ids, or by --device and --server');
        const wanted = byFilter ? await idsOf(ask) : ids;
        if (!ask.yes && !(await agreed(wanted.length))) {
          process.exitCode = EXIT.refused;
          return print('nothing was ended');
        }
        const ended: string[] = [];
        for (const id of wanted) if (await revoke(ask, id)) ended.push(id);
        if (ask.json) printJson({ ended });
        else print(`ended ${count(ended.length, 'grant')}`);
        if (ended.length === 0) process.exitCode = EXIT.refused;
      }),
    {
      more: 'On a terminal it asks before it ends more than one. Status 1 where none was ended.',
      examples: [
        'mtgate grants revoke 01M86C3MNB6MH6MFDTWNJ2S086',
        'mtgate grants revoke --server acme-head-end --yes',
        'mtgate grants revoke --device m1@meters.acme.example',
      ],
    },
  );
}

function filtered(command: Command): Command {
  return command
    .option('--device <device>', 'those on this device: external identifier or MSISDN')
    .option('--server <name>', 'those of this MTC server')
    .addOption(socket())
    .addOption(json());
}

/** How many are asked for at once. */
const PAGE = 1_000;

/** The live grants, a page at a time; returns how many more there are than so many. */
async function* pagesOf(
  { device, server, ...ask }: Filter,
  limit: number,
): AsyncGenerator<readonly GrantRow[], number> {
  let read = 0;
  for (let after: string | undefined; ; ) {
    const query = new URLSearchParams({
      limit: String(Math.min(PAGE, limit - read)),
      ...(device !== undefined && { device }),
      ...(server !== undefined && { server }),
      ...(after !== undefined && { after }),
    });
    const { grants, total, next } = await call<GrantRows>(ask, 'GET', `/grants?${query}`);
    yield grants;
    read += grants.length;
    if (next === undefined) return 0;
    if (read >= limit) return Math.max(0, total - read);
    after = next;
  }
}

async function idsOf(ask: Filter): Promise<string[]> {
  const ids: string[] = [];
  for await (const rows of pagesOf(ask, Number.POSITIVE_INFINITY)) ids.push(...rows.map(({ grantId }) => grantId));
  return ids;
}

function readLimit(text: string): number {
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1)
    throw new CommanderError(2, 'mtgate.limit', `--limit: expected a whole number above 0, not "${text}"`);
  return limit;
}

/** Whether it was live. What is not is told of, and does not hold up the others. */
async function revoke(ask: Ask, id: string): Promise<boolean> {
  try {
    await call(ask, 'DELETE', `/grants/${encodeURIComponent(id)}`);
    return true;
  } catch (fault) {
    if (!(fault instanceof Declined) || fault.code !== 'grantNotFound') throw fault;
    process.stderr.write(`${printable(fault.message)}\n`);
    return false;
  }
}

/** Whoever sits at a terminal is asked before more than one grant ends. */
async function agreed(number: number): Promise<boolean> {
  if (number < 2 || !process.stdin.isTTY) return true;
  return agreedTo(`End ${number} grants? Their packets stop at once.`);
}

/** Both directions together, and of the bytes how many are used. */
function limitsText({ packetsPerSecond, bytes }: PacketLimits, carried: GrantDetail['carried']): string {
  const used = carried && bytes !== undefined ? `, ${carried.in.bytes + carried.out.bytes} used` : '';
  const texts = [
    ...(packetsPerSecond === undefined ? [] : [`${packetsPerSecond} packets a second`]),
    ...(bytes === undefined ? [] : [`${bytes} bytes in all${used}`]),
  ];
  return texts.join('; ') || 'as much as comes';
}

function triggerText({ triggerId, deliveryResult, endText }: NonNullable<GrantDetail['trigger']>): string {
  return `trigger ${triggerId}: ${deliveryResult}, ${endText ?? 'pending'}`;
}

function pageOf(grant: GrantDetail): readonly (readonly [string, string | undefined])[] {
  const { carried, endCause, endText, endedAt, status, remainingSeconds, limits } = grant;
  const wasLive = grant.external !== undefined;
  const until = localTime(grant.expiresAt);
  const traffic = ({ packets, bytes }: { packets: number; bytes: number }) => `${packets} packets, ${bytes} bytes`;
  return [
    ['grant', grant.grantId],
    ['status', endCause === undefined ? status : `${status}: ${endCause}, ${endText}`],
    ['server', grant.server],
    ['application server', grant.applicationServer],
    ['device', grant.device],
    ['asked for as', grant.reference],
    ['MTC user', grant.mtcUser],
    ['protocol', `${grant.protocol} over ${grant.family}`],
    ['external', grant.external],
    ['inner', wasLive ? `${grant.inner} in ${grant.realm}` : undefined],
    ['rule', `${grant.rule} of policy ${grant.policyVersion}`],
    [wasLive ? 'started' : 'waits since', localTime(grant.startedAt)],
    [wasLive ? 'granted for' : 'asked for', span(grant.grantedSeconds)],
    [wasLive ? 'expires' : 'waits until', status === 'ended' ? until : `${until}, in ${span(remainingSeconds)}`],
    ['woken by', grant.trigger && triggerText(grant.trigger)],
    ['ended', endedAt && localTime(endedAt)],
    ['to the device', wasLive ? (carried ? traffic(carried.in) : 'counted no more') : undefined],
    ['from the device', wasLive ? (carried ? traffic(carried.out) : 'counted no more') : undefined],
    ['may carry', limits && limitsText(limits, carried)],
    ['in the gate', wasLive ? `entry ${grant.entry}, number ${grant.number}` : undefined],
    ['gateway', grant.gateway],
  ];
}
