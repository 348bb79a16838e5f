/**
 * The commands through which rule files come into force: `diff`, `apply`,
 * `confirm`, `rollback`, `history`. The agent reads the files; what it has
 * shown, and nothing else, is what is applied.
 */
import { type Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import type { Diff, EditionRow } from '../api/edition-routes.ts';
import { COMMENT_EXPECTED, LONGEST_COMMENT } from '../editions/edition.ts';
import { mayGoOn } from './agreement.ts';
import { type Ask, call, json, socket } from './client.ts';
import { explainUse } from './help.ts';
import { count, print, printJson, printLines, printPairs, printRows, table } from './print.ts';
import { localTime, span } from './times.ts';

/** To look through a million grants and a week of requests takes a while; the agent answers others meanwhile. */
const PATIENCE_MS = 600_000;

interface Apply extends Ask {
  readonly confirm?: number;
  readonly comment?: string;
  readonly yes?: true;
  readonly offline?: true;
  readonly config: string;
}

type Applied = EditionRow & { readonly liveGrants: number };

export function registerEditions(program: Command): void {
  explainUse(
    program
      .command('diff')
      .description('what `apply` would change: rules, live grants that would end, requests decided otherwise')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const diff = await shown(ask);
        if (ask.json) printJson(diff);
        else printLines(pageOf(diff));
      }),
    {
      more: 'Requests of the last 7 days, the newest 100,000, are put to both policies as if each server held and had\nasked for nothing else: rates and quotas are not played again.',
      examples: ['mtgate diff', 'mtgate diff --json | jq .ends'],
    },
  );

  explainUse(
    trial(program.command('apply'))
      .description('put the rule files of agent.yaml in force, after their tests, if you agree to what changes')
      .option('--offline', 'the agent is down: they are in force from its next start')
      .option('--config <file>', 'with --offline: agent.yaml', '/etc/mtgate/agent.yaml')
      .action(async (ask: Apply) => {
        if (ask.offline && ask.confirm !== undefined)
          throw new CommanderError(2, 'mtgate.apply', '--confirm goes with a running agent, not with --offline');
        if (!ask.offline) return putInForce(ask, await shown(ask));
        return (await import('./offline-apply.ts')).applyOffline(ask);
      }),
    {
      more: 'With --confirm it goes back by itself unless `mtgate confirm` comes in time; also after a crash or restart.',
      examples: [
        'mtgate apply',
        'mtgate apply --confirm 60s --comment "port for the new meters"',
        'mtgate apply --yes',
      ],
    },
  );

  explainUse(
    program
      .command('confirm')
      .description('what was applied with --confirm stays in force')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const done = await call<Applied>(ask, 'POST', '/policy/confirm', {});
        if (ask.json) printJson(done);
        else print(`edition ${done.edition} is confirmed: it stays in force`);
      }),
    { examples: ['mtgate confirm'] },
  );

  explainUse(
    trial(program.command('rollback'))
      .argument('[edition]', 'its number (mtgate history)', readEdition)
      .description('put an edition of before in force again (default: the one before), as a new edition')
      .action(async (edition: string | undefined, ask: Apply) => {
        await putInForce(ask, await shown(ask, edition ?? 'before'));
      }),
    {
      more: 'The rule files on disk stay as they are. While an edition is on trial, a rollback ends that at once.',
      examples: ['mtgate rollback', 'mtgate rollback 12 --confirm 5m'],
    },
  );

  const history = program
    .command('history')
    .description('which rules were in force: since when, by whom, what changed');
  explainUse(
    history
      .command('list', { isDefault: true })
      .description('the editions that are kept (a hundred), the newest first')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const editions = await call<EditionRow[]>(ask, 'GET', '/policy/editions');
        const rows = editions.map((row, i) => ({
          ...{ ...row, at: localTime(row.at), what: whatOf(row) },
          state: stateOf(row, i === 0),
        }));
        if (ask.json) printJson(editions);
        else printRows(ask, rows, ['edition', 'policy', 'at', 'by', 'how', 'state', 'what']);
      }),
    { examples: ['mtgate history', 'mtgate history --json | jq ".[0]"'] },
  );
  explainUse(
    history
      .command('show')
      .argument('<edition>', 'its number', readEdition)
      .description('all of one edition: who, when, what changed, and its rule files')
      .addOption(socket())
      .addOption(json())
      .action(async (edition: string, ask: Ask) => {
        const path = `/policy/editions/${encodeURIComponent(edition)}`;
        const row = await call<EditionRow & { files: { file: string; text: string }[] }>(ask, 'GET', path);
        if (ask.json) return printJson(row);
        printPairs([
          ['edition', `${row.edition}, policy ${row.policy}`],
          ['in force from', `${localTime(row.at)}, by ${row.by} (${row.how})`],
          ['comment', row.comment],
          ['trial', row.confirmBy && `until ${localTime(row.confirmBy)}`],
          ['confirmed', row.confirmedAt && `${localTime(row.confirmedAt)}, by ${row.confirmedBy}`],
          ...row.changed.map((line, i) => [i === 0 ? 'changed' : '', line] as const),
        ]);
        for (const { file, text } of row.files) printLines(['', `# ${file}`, ...text.trimEnd().split('\n')]);
      }),
    { examples: ['mtgate history show 12', "mtgate history show 12 --json | jq -r '.files[].text'"] },
  );
}

/** The options of a command that puts something in force. */
function trial(command: Command): Command {
  return command
    .addOption(new Option('--confirm <time>', 'on trial for so long, such as 60s or 5m').argParser(readTime))
    .addOption(new Option('--comment <text>', 'why, for the history').argParser(readComment))
    .option('--yes', 'do not ask (needed with --json, and without a terminal)')
    .addOption(socket())
    .addOption(json());
}

function readEdition(text: string): string {
  if (/^[1-9]\d{0,14}$/.test(text)) return text;
  throw new InvalidArgumentError('Expected the number of an edition (mtgate history).');
}

/** Before anything is looked through: what is refused at the end of a long comparison was refused in vain. */
function readComment(text: string): string {
  const comment = text.trim();
  if (comment.length >= 1 && comment.length <= LONGEST_COMMENT) return comment;
  throw new InvalidArgumentError(`${COMMENT_EXPECTED.replace(/^e/, 'E')}.`);
}

function readTime(text: string): number {
  const [, number, unit = 's'] = /^([1-9]\d{0,4})(s|m|h)?$/.exec(text) ?? [];
  const seconds = Number(number) * { s: 1, m: 60, h: 3_600 }[unit as 's' | 'm' | 'h'];
  if (number !== undefined && seconds <= 86_400) return seconds;
  throw new InvalidArgumentError('Expected a time from 1s to 24h, such as 60s or 5m.');
}

function shown(ask: Ask, of?: string): Promise<Diff> {
  return call<Diff>(ask, 'GET', `/policy/diff${of === undefined ? '' : `?of=${of}`}`, undefined, PATIENCE_MS);
}

/** Shows what would change, asks, and has just that put in force. */
async function putInForce(ask: Apply, diff: Diff): Promise<void> {
  if (diff.isSame) {
    if (ask.json) return printJson({ applied: false, edition: diff.inForce });
    return print(`nothing to do: edition ${diff.inForce}, which is in force, says the same`);
  }
  if (!ask.json) printLines(pageOf(diff));
  if (!(await mayGoOn(ask))) return;
  const { digest, inForce, of } = diff;
  const wanted = { digest, inForce, of, confirmSeconds: ask.confirm, comment: ask.comment };
  const done = await call<Applied>(ask, 'POST', '/policy/apply', wanted, PATIENCE_MS);
  if (ask.json) return printJson({ applied: true, ...done });
  print(`in force: edition ${done.edition}, policy ${done.policy}, ${count(done.liveGrants, 'live grant')}`);
  if (done.confirmBy !== undefined)
    print(`on trial until ${localTime(done.confirmBy)}: mtgate confirm, or it goes back by itself`);
}

function pageOf({ inForce, of, policy, warnings, changes, ends, requests }: Diff): string[] {
  const whose = of === undefined ? 'the rule files on disk' : `edition ${of}`;
  const examples = ends.groups.map(({ count: number, reason, rule, example }) => [
    `  ${number}`,
    rule === undefined ? reason : `${reason} by ${rule}`,
    `such as ${example.grantId}, ${example.server} to ${example.device}: ${example.why}`,
  ]);
  const decided = requests.groups.map(({ count: number, from, to, example: { server, device, target, atMs, id } }) => [
    `  ${number}`,
    `${from} -> ${to}`,
    `such as ${server} to ${device}, ${target}, ${localTime(atMs)}, ${id}`,
  ]);
  const since = `${count(requests.looked, 'request')} since ${localTime(requests.sinceMs)}`;
  return [
    ...warnings.map((warning) => `warning: ${warning}`),
    `edition ${inForce}, in force, against ${whose} (policy ${policy}):`,
    ...(changes.length > 0 ? changes.map((line) => `  ${line}`) : ['  nothing changes in meaning']),
    `${count(ends.count, 'live grant')} would end${ends.count > 0 ? ':' : ''}`,
    ...table(examples),
    `of ${since}${requests.isCut ? ' (the older ones were left out)' : ''}, ${requests.changed} would be decided otherwise${requests.changed > 0 ? ':' : ''}`,
    ...table(decided),
  ];
}

/** What is not in force any more was given up, or gone back from, whatever time was left to it. */
function stateOf({ confirmBy, confirmedBy }: EditionRow, isInForce: boolean): string {
  if (confirmBy === undefined) return '';
  if (confirmedBy !== undefined) return `confirmed by ${confirmedBy}`;
  const left = (Date.parse(confirmBy) - Date.now()) / 1000;
  return isInForce && left > 0 ? `on trial for ${span(left)}` : 'not confirmed';
}

/** Why, and what: one line. */
function whatOf({ comment, changed }: EditionRow): string {
  const [first = '', ...more] = changed;
  return [comment, more.length > 0 ? `${first}, and ${more.length} more` : first].filter(Boolean).join('; ');
}
