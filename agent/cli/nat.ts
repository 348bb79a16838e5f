/** `mtgate nat who`: the question of an abuse desk, or of a court, for the NAT record. */
import { type Command, CommanderError, Option } from 'commander';
import type { NatAnswer, NatRow } from '../api/nat-routes.ts';
import { PROTOCOLS } from '../core/words.ts';
import { type Ask, call, json, socket } from './client.ts';
import { explainUse } from './help.ts';
import { print, printJson, printRows } from './print.ts';

interface WhoAsk extends Ask {
  readonly protocol?: string;
}

export function registerNat(program: Command): void {
  const nat = program.command('nat').description('the record of what stood for whom outside');
  explainUse(
    nat
      .command('who <publicAddress> <port> <time>')
      .description('who had a public address and port at a time: by a grant, or by a flow that the device began')
      .addOption(new Option('--protocol <protocol>', 'only this one').choices([...PROTOCOLS]))
      .addOption(socket())
      .addOption(json())
      .action(async (address: string, port: string, time: string, ask: WhoAsk) => {
        if (!/^\d{1,5}$/.test(port)) throw new CommanderError(2, 'mtgate.nat', `"${port}" is not a port`);
        const words = { address, port, time, ...(ask.protocol !== undefined && { protocol: ask.protocol }) };
        const answer = await call<NatAnswer>(ask, 'GET', `/nat/who?${new URLSearchParams(words)}`);
        if (ask.json) return printJson(answer);
        const rows = answer.candidates.map((row) => ({
          ...row,
          device: row.device ?? 'not registered',
          ...timesOf(row),
        }));
        const columns = ['device', 'protocol', 'realm', 'inner', 'from', 'until', 'by', 'sure'] as const;
        printRows(ask, rows, columns, `nobody had ${address} port ${port} then`);
        if (rows.length > 1)
          print('several candidates: the protocol, a finer time, or the server that was spoken to tells them apart');
        for (const note of answer.notes) print(`note: ${note}`);
      }),
    {
      more: `The time has its zone (2026-01-31T10:15:32Z, 2026-01-31T11:15:32+01:00), or is in seconds since 1970 (9 or 10 digits), or "now";
without fractions it means the whole second. One port may stand for several devices at once, toward different servers.`,
      examples: [
        'mtgate nat who 203.0.113.9 40001 2026-01-31T10:15:32Z --protocol udp',
        'mtgate nat who 2001:db8:e::1 40001 now --json',
      ],
    },
  );
}

function timesOf({ began, beganFrom, ended, endedFrom, grant, server, certain }: NatRow) {
  return {
    from: beganFrom ? `${beganFrom}..${began}` : began,
    until: ended === undefined ? 'now' : endedFrom ? `${endedFrom}..${ended}` : ended,
    by: grant ? `grant ${grant} of ${server}` : 'the device',
    sure: certain ? 'yes' : 'perhaps',
  };
}
