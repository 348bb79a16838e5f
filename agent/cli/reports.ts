/** `reports`: how pushes to sinks fare, and what an MTC user is told. */
import type { Command } from 'commander';
import type { SinkRow } from '../api/sink-routes.ts';
import { type Ask, call, json, socket } from './client.ts';
import { explainUse } from './help.ts';
import { printJson, printRows } from './print.ts';
import { localTime } from './times.ts';

/** A report as the management socket has it. */
interface ReportRow {
  readonly kind: string;
  readonly reason: string;
  readonly count: number;
  readonly firstSeen: string;
  readonly lastSeen: string;
  readonly source?: { readonly address: string; readonly port?: number };
  readonly proven: string;
  readonly device: string;
  readonly server?: string;
}

export function registerReports(program: Command): void {
  const reports = program.command('reports').description('what MTC users and servers are told, and how it gets there');
  explainUse(
    reports
      .command('sinks', { isDefault: true })
      .description('every sink: what waits for it, what it has taken, when it last failed and why')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const found = await call<SinkRow[]>(ask, 'GET', '/sinks');
        if (ask.json) return printJson(found);
        const rows = found.map((row) => ({
          ...row,
          last: row.lastSuccess ? localTime(row.lastSuccess) : 'never',
          fault: row.lastFault ? `${row.lastFault.fault} ${localTime(row.lastFault.at)}: ${row.lastFault.why}` : '',
        }));
        const columns = ['of', 'sink', 'waiting', 'delivered', 'givenUp', 'failures', 'last', 'fault'] as const;
        printRows({}, rows, columns, 'no sinks in the rule files');
      }),
    {
      more: 'A sink that fails is tried again, at most every five minutes; what it cannot take in time is given up, counted.',
      examples: ['mtgate reports', 'mtgate reports sinks --json'],
    },
  );
  explainUse(
    reports
      .command('user <name>')
      .description('what this MTC user sees of who was turned away from its devices')
      .addOption(socket())
      .addOption(json())
      .action(async (name: string, ask: Ask) => {
        const found = await call<{ reports: ReportRow[] }>(ask, 'GET', `/reports/${encodeURIComponent(name)}`);
        if (ask.json) return printJson(found);
        const rows = found.reports.map((row) => ({
          ...row,
          seen: localTime(row.lastSeen),
          from: row.source?.address ?? 'inside',
        }));
        const columns = ['seen', 'kind', 'reason', 'count', 'from', 'proven', 'device', 'server'] as const;
        printRows({}, rows, columns, 'no reports');
      }),
    { examples: ['mtgate reports user acme'] },
  );
}
