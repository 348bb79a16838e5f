/** `users`: whom MTC users authorise and what they want of their devices; and how an operator says it for one. */
import { type Command, CommanderError, InvalidArgumentError } from 'commander';
import type { SaidBy, UserDetail, UserRow } from '../api/user-routes.ts';
import { type Ask, call, json, socket } from './client.ts';
import { explainUse } from './help.ts';
import { count, print, printJson, printPairs, printRows } from './print.ts';
import { localTime } from './times.ts';

/** Within the day, as typed; whether they are times, the agent says. */
interface Quiet {
  readonly from: string;
  readonly to: string;
}

interface Preference {
  readonly block?: boolean;
  readonly quiet?: Quiet;
  readonly days?: string;
  readonly grantsPerDay?: number;
  readonly zone?: string;
}

const SET_BY = { ruleFiles: 'the rule files', mtcUser: 'the MTC user', operator: 'an operator' } as const;

export function registerUsers(program: Command): void {
  const users = program.command('users').description('MTC users: whom each authorises, and what it wants');
  explainUse(
    users
      .command('list', { isDefault: true })
      .description('list the MTC users: their servers, who set them, preferences, live grants')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const found = await call<UserRow[]>(ask, 'GET', '/users');
        const rows = found.map((row) => ({
          ...row,
          servers: row.servers.join(', ') || 'none',
          setBy: SET_BY[row.setBy],
          devices: row.devices.join(', '),
        }));
        const columns = ['mtcUser', 'servers', 'setBy', 'preferences', 'liveGrants', 'devices'] as const;
        if (ask.json) printJson(found);
        else printRows({}, rows, columns, 'no MTC user in the rule files');
      }),
    { examples: ['mtgate users list', 'mtgate users list --json'] },
  );

  explainUse(
    users
      .command('show <mtcUser>')
      .description('one MTC user: servers and preferences, who set them, and when')
      .addOption(socket())
      .addOption(json())
      .action(async (name: string, ask: Ask) => {
        const found = await call<UserDetail>(ask, 'GET', of(name));
        if (ask.json) printJson(found);
        else printUser(found);
      }),
    { examples: ['mtgate users show acme'] },
  );

  explainUse(
    changing(users.command('authorise <mtcUser> [servers...]'))
      .description('these servers are authorised by the MTC user, and no others; what others hold ends')
      .action(async (name: string, servers: string[], ask: Ask) => {
        await call(ask, 'PUT', `${of(name)}/servers`, { servers });
        done(ask, { mtcUser: name, servers }, `${name} authorises ${servers.join(', ') || 'nobody'}`);
      }),
    {
      more: 'In the place of what the rule files or the MTC user said, within `mayAuthorise`. Without servers: nobody.',
      examples: ['mtgate users authorise acme acme-head-end'],
    },
  );

  explainUse(
    changing(users.command('clear <mtcUser>'))
      .description('forget which servers the MTC user set: those of the rule files count again')
      .action(async (name: string, ask: Ask) => {
        await call(ask, 'DELETE', `${of(name)}/servers`);
        done(ask, { cleared: name }, `${name} authorises what the rule files say`);
      }),
    { examples: ['mtgate users clear acme'] },
  );

  explainUse(
    changing(users.command('prefer <mtcUser> <devices>'))
      .description('a preference of the MTC user for a device or a pattern; what it does not want ends')
      .option('--block', 'nothing reaches them')
      .option('--quiet <from-to>', 'nothing reaches them within these hours, such as 22:00-06:00', readQuiet)
      .option('--days <list>', 'with --quiet: on which these hours begin, such as sat,sun (default: on all)')
      .option('--grants-per-day <number>', 'so many grants begin on each in a day', readGrants)
      .option('--zone <zone>', 'with --quiet or --grants-per-day: whose clock it is (default: UTC)')
      .action(async (name: string, devices: string, ask: Ask & Preference) => {
        const { id } = await call<{ id: string }>(ask, 'POST', `${of(name)}/preferences`, written(devices, ask));
        done(ask, { mtcUser: name, id }, `preference ${id} of ${name} holds`);
      }),
    {
      more: 'Of several that meet a device each holds.',
      examples: [
        'mtgate users prefer acme m1@meters.acme.example --block',
        "mtgate users prefer acme '*@meters.acme.example' --quiet 22:00-06:00 --zone Europe/Berlin",
      ],
    },
  );

  explainUse(
    changing(users.command('drop <mtcUser> <preference>'))
      .description('take a preference of the MTC user back')
      .action(async (name: string, id: string, ask: Ask) => {
        await call(ask, 'DELETE', `${of(name)}/preferences/${encodeURIComponent(id)}`);
        done(ask, { dropped: id }, `preference ${id} of ${name} holds no more`);
      }),
    { examples: ['mtgate users drop acme 01M86C3MNB6MH6MFDTWNJ2S086'] },
  );
}

function changing(command: Command): Command {
  return command.addOption(socket()).addOption(json());
}

function done(ask: Ask, value: object, said: string): void {
  if (ask.json) printJson(value);
  else print(said);
}

function of(name: string): string {
  return `/users/${encodeURIComponent(name)}`;
}

function readGrants(text: string): number {
  if (/^[1-9]\d{0,6}$/.test(text) && Number(text) <= 1_000_000) return Number(text);
  throw new InvalidArgumentError('Expected a whole number from 1 to 1000000.');
}

function readQuiet(text: string): Quiet {
  const [from, to, ...more] = text.split('-');
  if (from && to && more.length === 0) return { from, to };
  throw new InvalidArgumentError('Expected two times of the day, such as 22:00-06:00.');
}

/**
 * As the management interface takes it; what is wrong with it, that says. What
 * would narrow nothing is no part of what it takes, and must not be lost: with
 * --days and without --quiet a --block is for every day.
 */
function written(devices: string, { block, quiet, days, grantsPerDay, zone: named }: Preference): object {
  if (days !== undefined && !quiet) throw new CommanderError(2, 'mtgate.prefer', '--days goes with --quiet');
  if (named !== undefined && !quiet && grantsPerDay === undefined)
    throw new CommanderError(2, 'mtgate.prefer', '--zone goes with --quiet or --grants-per-day');
  const zone = named ?? 'UTC';
  return {
    devices,
    ...(block && { block }),
    ...(quiet && { quietHours: { ...quiet, zone, ...(days !== undefined && { days: days.split(',') }) } }),
    ...(grantsPerDay !== undefined && { grantsPerDay: { grants: grantsPerDay, zone } }),
  };
}

function printUser(found: UserDetail): void {
  printPairs([
    ['MTC user', found.mtcUser],
    ['devices', found.devices.join(', ')],
    ['authorises', found.servers.join(', ') || 'none'],
    ['set by', `${SET_BY[found.setBy]}${found.setAt && found.said ? `, ${whenBy(found.setAt, found.said)}` : ''}`],
    ['without effect', found.withoutEffect.join(', ') || undefined],
    ['may authorise', found.mayAuthorise.join(', ') || 'none'],
    ['grants', `${count(found.liveGrants, 'live grant')}, ${count(found.waitingGrants, 'waiting request')}`],
  ]);
  print('');
  const rows = found.preferences.map(({ id, devices, block, quietHours, grantsPerDay, setAt, said }) => ({
    ...{ id, devices },
    wants: [
      block ? 'nothing' : '',
      quietHours ? `quiet ${quietHours.from}-${quietHours.to} ${quietHours.zone}${daysText(quietHours.days)}` : '',
      grantsPerDay ? `${count(grantsPerDay.grants, 'grant')} a day (${grantsPerDay.zone})` : '',
    ]
      .filter((one) => one !== '')
      .join('; '),
    set: whenBy(setAt, said),
  }));
  printRows({}, rows, ['id', 'devices', 'wants', 'set'], 'no preferences');
}

function daysText(days: readonly string[] = []): string {
  return days.length === 7 ? '' : ` on ${days.join(' ')}`;
}

function whenBy(at: string, said: SaidBy): string {
  return `${localTime(at)} by ${'byUid' in said ? `uid ${said.byUid}` : `certificate ${said.certificate}`}`;
}
