/** `radius`: how accounting goes, by which devices get and lose their addresses. */
import type { Command } from 'commander';
import type { RadiusStatus } from '../api/radius-routes.ts';
import { type Ask, call, json, socket } from './client.ts';
import { explainUse } from './help.ts';
import { print, printJson, printPairs, printRows } from './print.ts';
import { localTime } from './times.ts';

export function registerRadius(program: Command): void {
  const radius = program.command('radius').description('RADIUS accounting: who speaks, and what became of it');
  explainUse(
    radius
      .command('status', { isDefault: true })
      .description('clients and their rates, sessions, what was refused, alarmed and dropped since the start')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const found = await call<RadiusStatus>(ask, 'GET', '/radius');
        if (ask.json) return printJson(found);
        printPairs([
          ['listens on', found.listen.join(', ')],
          ['sessions', String(found.sessions)],
          ['requests', `${found.requests}, ${found.repeated} of them again, ${found.inProgress} in progress`],
          ['lost', found.lostInKernel > 0 ? `${found.lostInKernel}, for which the kernel had no room` : undefined],
        ]);
        print('');
        const clients = found.clients.map((row) => ({ ...row, last: row.lastAt ? localTime(row.lastAt) : 'never' }));
        printRows({}, clients, ['client', 'perMinute', 'last'], 'no clients');
        print('');
        const findings = found.findings.map((row) => ({ ...row, alarm: row.alarmed ? 'alarm' : '' }));
        printRows({}, findings, ['client', 'finding', 'count', 'alarm', 'meaning'], 'nothing was told yet');
        print('');
        const dropped = found.dropped.map((row) => ({ ...row, client: row.client ?? 'strangers' }));
        printRows({}, dropped, ['client', 'reason', 'count', 'meaning'], 'nothing was dropped');
      }),
    { examples: ['mtgate radius status', 'mtgate radius status --json | jq .dropped'] },
  );
}
