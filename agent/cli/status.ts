/** `status`, `drain` and `reload`: the gateway as a whole. */
import type { Command } from 'commander';
import type { CertificateStatus } from '../api/expiry.ts';
import { DENIALS } from '../core/reasons.ts';
import type { Status } from '../use-cases/status.ts';
import { type Ask, call, json, socket } from './client.ts';
import { EXIT, explainUse } from './help.ts';
import { count, print, printJson, printLines, table } from './print.ts';
import { localTime, span } from './times.ts';

/** What a reload has put in force, and what of it is of no use. */
interface Reloaded {
  readonly policy: string;
  readonly devices: number;
  readonly liveGrants: number;
  readonly unusable: readonly CertificateStatus[];
  /** What lies in the rule folder and is not in force. */
  readonly folder?: string;
}

export function registerStatus(program: Command): void {
  explainUse(
    program
      .command('status')
      .description('is it closed, what hangs where, which policy, how many grants, what went wrong last')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const status = await call<Status>(ask, 'GET', '/status');
        if (ask.json) printJson(status);
        else printLines(statusPage(status));
        process.exitCode = status.closed ? EXIT.done : EXIT.refused;
      }),
    {
      more: 'Status 1 while a gap stands: gate or base are not as they should be, and no grant is opened.',
      examples: [
        'mtgate status',
        'mtgate status --json | jq .deniedInLastMinute',
        'mtgate status >/dev/null || page-somebody',
      ],
    },
  );

  explainUse(
    program
      .command('drain')
      .description('begin no new grants and extend none; live ones go on to their ends')
      .option('--end', 'begin grants again')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask & { end?: boolean }) => {
        const status = await call<Status>(ask, 'POST', '/drain', { draining: !ask.end });
        if (ask.json) return printJson(status);
        const live = `${count(status.liveGrants, 'live grant')}`;
        print(status.draining ? `draining: no new grants; ${live} to go` : `grants are begun again; ${live}`);
      }),
    {
      more: 'Servers are answered 503. It outlives a reload, not a restart of the agent. `status` shows it.',
      examples: ['mtgate drain', 'mtgate drain --end'],
    },
  );

  explainUse(
    program
      .command('reload')
      .description('read devices file and certificates again; with autoApply the rule files too')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const answer = await call<Reloaded>(ask, 'POST', '/reload', {});
        if (ask.json) return printJson(answer);
        const { policy, devices, liveGrants, unusable, folder } = answer;
        print(`in force: policy ${policy}, ${devices} devices, ${liveGrants} live grants`);
        for (const { kind, name, why } of unusable) print(`not usable: ${KINDS[kind]} ${name}: ${why}`);
        if (folder !== undefined) print(folder);
      }),
    {
      more: 'Where one file is invalid nothing changes, and the place is named. Rule files are put in force by `mtgate apply`.',
      examples: ['mtgate reload'],
    },
  );
}

function liveText({ liveGrants, heldGrants }: Status): string {
  if (heldGrants === 0) return String(liveGrants);
  return `${liveGrants}, of which ${heldGrants} HELD until it is confirmed who holds their addresses`;
}

/** One screen: the state in a sentence, then what it rests on. */
function statusPage(status: Status): string[] {
  const { gateway, closed, gap, draining, interfaces, attachments, hooks, packets, freeEndpoints, lastFault } = status;
  const state = closed ? 'closed: gate and base stand' : `NOT AS IT SHOULD BE: ${gap}`;
  const denied = Object.entries(packets.denied).sort(([, a], [, b]) => b - a);
  const realms = interfaces.inside.map((one) => `${one.interface} (${one.realm})`).join(', ');
  const rows: (readonly [string, string])[] = [
    ['new grants', newGrants(closed, draining)],
    ['live grants', liveText(status)],
    ['waiting', `${count(status.waitingGrants, 'request')} for a device that has no address`],
    ['endpoints', `${status.restingEndpoints} at rest; free: ${freeText(freeEndpoints)}`],
    ['policy', `${status.policy}, ${editionText(status.edition)}`],
    ...editionAlarms(status.edition).map((text) => ['', text] as const),
    ['devices', `${status.registeredDevices} registered`],
    ['bindings', String(status.bindings)],
    ['interfaces', `outside ${interfaces.outside}; inside ${realms}`],
    ...status.missingInterfaces.map((why) => ['', `MISSING: ${why}`] as const),
    ...status.wrongSysctls.map((text, i) => [i === 0 ? 'kernel' : '', `WRONG: ${text}`] as const),
    ...attachments.map((text, i) => [i === 0 ? 'gate' : '', text.split(' ').join('  ')] as const),
    ...hooks.map((one) => ['', `${one.interface} meets its packets at ${one.hook}: ${one.why}`] as const),
    ['heartbeat', `${span(status.heartbeatAgeSeconds)} ago (refused after ${span(status.orphanGraceSeconds)} without)`],
    ['carried', `${packets.grantedIn} packets in, ${packets.grantedOut} out; ${packets.passed} left to the base`],
    ...(packets.atXdp > 0 ? [['', `${packets.atXdp} carried or denied at XDP`] as const] : []),
    ['denied', `${status.deniedInLastMinute} in the last minute; since the gate began:`],
    ...denied.map(([reason, number]) => ['', `${number} ${reason} (${denialText(reason)})`] as const),
    ['inspector', inspectorText(status.inspector)],
    ['NAT record', natRecordText(status.natRecord)],
    ...status.certificates.map(
      (one, i) => [i === 0 ? 'certificates' : '', `${KINDS[one.kind]} ${one.name}: ${dateText(one)}`] as const,
    ),
    [
      'last fault',
      lastFault ? `${localTime(lastFault.at)}  ${lastFault.event}  ${fieldsText(lastFault.fields)}` : 'none',
    ],
  ];
  return [`${gateway} is ${state}.`, ...table(rows)];
}

function editionText({ number, at, by, how }: Status['edition']): string {
  return `edition ${number}, by ${by} (${how}), ${localTime(at)}`;
}

function editionAlarms({ number, confirmSecondsLeft, folder }: Status['edition']): string[] {
  const trial = `ON TRIAL: edition ${number} goes back in ${span(confirmSecondsLeft ?? 0)} unless: mtgate confirm`;
  return [...(confirmSecondsLeft === undefined ? [] : [trial]), ...(folder === undefined ? [] : [folder])];
}

const KINDS = { server: 'certificate', clientCa: 'client CA', crl: 'CRL' } as const;

function newGrants(closed: boolean, draining: boolean): string {
  if (draining) return 'none: draining (mtgate drain --end)';
  return closed ? 'begun' : 'none until it is repaired';
}

function freeText({ ipv4Tcp, ipv4Udp, ipv6 }: Status['freeEndpoints']): string {
  return `${ipv4Tcp} TCP and ${ipv4Udp} UDP of IPv4, ${ipv6} of IPv6 or not translated`;
}

function denialText(reason: string): string {
  return (DENIALS as Readonly<Record<string, { readonly text: string }>>)[reason]?.text ?? '';
}

function inspectorText({ state, deaths, blindnesses }: Status['inspector']): string {
  return `${state}; its child ended ${count(deaths, 'time')}, was blind ${count(blindnesses, 'time')}`;
}

function natRecordText({ recording, fault, begun, lostInKernel, givenUp, deaths }: Status['natRecord']): string {
  const lost = lostInKernel + givenUp;
  const state = recording ? 'recording' : `NOT RECORDING${fault ? `: ${fault}` : ''}`;
  return `${state}; ${count(begun, 'flow')} since the start, ${lost} missed; its process ended ${count(deaths, 'time')}`;
}

function dateText({ notAfter, nextUpdate, usable, daysLeft, why }: CertificateStatus): string {
  const until = notAfter ?? nextUpdate;
  if (!usable || until === undefined) return `UNUSABLE: ${why}`;
  return `${localTime(until)}, ${daysLeft < 0 ? 'PAST' : `${count(Math.floor(daysLeft), 'day')} left`}`;
}

/** The fields of a log line in one line; what is empty says nothing. */
function fieldsText(fields: Readonly<Record<string, unknown>>): string {
  return Object.entries(fields)
    .filter(([name, value]) => name !== 'stack' && value !== '')
    .map(([name, value]) => `${name}: ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join('; ');
}
