/** `triggers`: list, show, recall. */
import { type Command, CommanderError } from 'commander';
import type { TriggerDetail, TriggerList, TriggerRow } from '../api/trigger-routes.ts';
import { type Ask, call, Declined, json, socket } from './client.ts';
import { EXIT, explainUse } from './help.ts';
import { count, print, printable, printJson, printPairs, printRows } from './print.ts';
import { localTime, span } from './times.ts';

interface Filter extends Ask {
  readonly device?: string;
  readonly server?: string;
  readonly ended?: boolean;
  readonly limit?: number;
}

const COLUMNS = [
  'triggerId',
  'deliveryResult',
  'server',
  'device',
  'port',
  'priority',
  'acceptedAt',
  'validUntil',
  'attempts',
  'grantId',
] as const satisfies readonly (keyof TriggerRow)[];

export function registerTriggers(program: Command): void {
  const triggers = program.command('triggers').description('device triggers: list the pending ones, show one, recall');
  explainUse(
    triggers
      .command('list', { isDefault: true })
      .description('list the triggers that are pending, in the order in which they came; or those that have ended')
      .option('--device <device>', 'those for this device: external identifier or MSISDN')
      .option('--server <name>', 'those of this MTC server')
      .option('--ended', 'those that have ended, the last first')
      .option('--limit <number>', 'no more than so many (100)', readLimit)
      .addOption(socket())
      .addOption(json())
      .action(async ({ device, server, ended, limit, ...ask }: Filter) => {
        const query = new URLSearchParams({
          ...(device !== undefined && { device }),
          ...(server !== undefined && { server }),
          ...(ended && { ended: 'true' }),
          ...(limit !== undefined && { limit: String(limit) }),
        });
        const { triggers: rows, pending } = await call<TriggerList>(ask, 'GET', `/triggers?${query}`);
        printRows(ask, rows, COLUMNS, ended ? 'no triggers have ended' : 'no triggers are pending');
        if (!ended && pending > rows.length) process.stderr.write(`${pending} are pending in all\n`);
      }),
    { examples: ['mtgate triggers list --server acme-head-end', 'mtgate triggers list --ended --limit 20'] },
  );

  explainUse(
    triggers
      .command('show <triggerId>')
      .description('all that is known of one, pending or ended: rule, times, attempts, why it ended')
      .addOption(socket())
      .addOption(json())
      .action(async (id: string, ask: Ask) => {
        const found = await call<TriggerDetail>(ask, 'GET', `/triggers/${encodeURIComponent(id)}`);
        if (ask.json) printJson(found);
        else printPairs(pageOf(found));
      }),
    {
      more: 'Ended triggers are kept for 7 days. The payload is not shown: it is for the device.',
      examples: ['mtgate triggers show 01M86C3MNB6MH6MFDTWNJ2S086'],
    },
  );

  explainUse(
    triggers
      .command('recall <triggerIds...>')
      .description('recall triggers: what is pending is sent no more, and its server is told')
      .addOption(socket())
      .addOption(json())
      .action(async (ids: readonly string[], ask: Ask) => {
        const recalled: string[] = [];
        for (const id of ids) if (await recall(ask, id)) recalled.push(id);
        if (ask.json) printJson({ recalled });
        else print(`recalled ${count(recalled.length, 'trigger')}`);
        if (recalled.length === 0) process.exitCode = EXIT.refused;
      }),
    {
      more: 'Status 1 where none was pending.',
      examples: ['mtgate triggers recall 01M86C3MNB6MH6MFDTWNJ2S086'],
    },
  );
}

/** Whether it was pending. What is not is told of, and does not hold up the others. */
async function recall(ask: Ask, id: string): Promise<boolean> {
  try {
    await call(ask, 'DELETE', `/triggers/${encodeURIComponent(id)}`);
    return true;
  } catch (fault) {
    if (!(fault instanceof Declined) || fault.code !== 'triggerNotFound') throw fault;
    process.stderr.write(`${printable(fault.message)}\n`);
    return false;
  }
}

function readLimit(text: string): number {
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > 1_000)
    throw new CommanderError(2, 'mtgate.limit', `--limit: expected a whole number from 1 to 1000, not "${text}"`);
  return limit;
}

function pageOf(trigger: TriggerDetail): readonly (readonly [string, string | undefined])[] {
  const { state, endCause, endText, endedAt, attempts, lastOutcome } = trigger;
  return [
    ['trigger', trigger.triggerId],
    ['state', endCause === undefined ? state : `${state}: ${endCause}, ${endText}`],
    ['delivery result', trigger.deliveryResult],
    ['for grant', trigger.grantId],
    ['server', trigger.server],
    ['device', trigger.device],
    ['asked for as', trigger.reference],
    ['MTC user', trigger.mtcUser],
    ['port', String(trigger.port)],
    ['priority', trigger.priority ? 'yes' : 'no'],
    ['payload', `${trigger.payloadBytes} bytes`],
    ['rule', `${trigger.rule} of policy ${trigger.policyVersion}`],
    ['accepted', localTime(trigger.acceptedAt)],
    ['valid', `for ${span(trigger.validitySeconds)}, until ${localTime(trigger.validUntil)}`],
    ['attempts', lastOutcome === undefined ? String(attempts) : `${attempts}, the last: ${lastOutcome}`],
    ['ended', endedAt && localTime(endedAt)],
    ['told to', trigger.destination],
    ['correlator', trigger.correlator],
    ['gateway', trigger.gateway],
  ];
}
