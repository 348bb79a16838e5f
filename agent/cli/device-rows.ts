/** `device import` and `device export`: the registry in bulk, as CSV or JSON lines. */
import { once } from 'node:events';
import { createReadStream, createWriteStream, rmSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { type Command, CommanderError, Option } from 'commander';
import { CONTENT_TYPES, type ImportAnswer } from '../api/device-routes.ts';
import { ROW_FORMATS, type RowFormat } from '../directory/device-rows.ts';
import { type Ask, json, receive, send, socket } from './client.ts';
import { explainUse } from './help.ts';
import { count, print, printable, printJson } from './print.ts';
import { Progress } from './progress.ts';

const COLUMNS = `Columns (CSV) or keys (JSON lines): externalId, msisdn, imsi, mtcUser, interfaceId, attributes.NAME
(in JSON: attributes, a mapping of texts). All but externalId may be left out. mtcUser is a claim:
where the rule files say another, that is an error. Where IMSI and MSISDN are not kept (identities in
agent.yaml), an export has what stands for them, which an import takes back: at this gateway alone.`;

const IMPORT_HELP = `${COLUMNS}

Devices are added, or changed by their external identifier. All rows are taken, or none: what is
wrong is told with line and column. What the devices file says, an import may repeat but not change.
Bindings of devices that are gone end, and with them their grants; grants that a rule allows no more
by what is said of a device now end, too. Interrupted before it is done, an import has changed nothing.`;

interface ImportAsk extends Ask {
  readonly format?: RowFormat;
  readonly replace?: boolean;
  readonly dryRun?: boolean;
}

interface ExportAsk extends Ask {
  readonly format?: RowFormat;
  readonly output?: string;
}

export function registerDeviceRows(device: Command): void {
  explainUse(
    device
      .command('import <file>')
      .description('register devices by a file (- for standard input), all or none')
      .addOption(format())
      .option('--replace', 'what was imported before and is not in the file goes')
      .option('--dry-run', 'check, and say what would change')
      .addOption(socket())
      .addOption(json())
      .action(importDevices),
    {
      more: IMPORT_HELP,
      examples: [
        'mtgate device import devices.csv --dry-run',
        'mtgate device import devices.jsonl --replace',
        'subscribers | mtgate device import - --format csv',
      ],
    },
  );
  explainUse(
    device
      .command('export')
      .description('write all registered devices, as an import reads them')
      .addOption(format())
      .addOption(new Option('--output <file>', 'write there, for nobody else to read'))
      .addOption(socket())
      .action(exportDevices),
    {
      more: COLUMNS,
      examples: ['mtgate device export --output devices.csv', 'mtgate device export --format jsonl | jq .msisdn'],
    },
  );
}

const format = () =>
  new Option('--format <format>', 'of the rows (default: by the name of the file)').choices([...ROW_FORMATS]);

async function importDevices(file: string, ask: ImportAsk): Promise<void> {
  const rowFormat = ask.format ?? formatOf(file);
  if (!rowFormat) throw new CommanderError(2, 'mtgate.import', `--format: is "${file}" csv or jsonl?`);
  const { bytes, size } = file === '-' ? { bytes: process.stdin, size: undefined } : await opened(file);
  const progress = new Progress(size);
  const path = `/devices/import?replace=${ask.replace ?? false}&dryRun=${ask.dryRun ?? false}`;
  const answer = await send<ImportAnswer>(ask, path, CONTENT_TYPES[rowFormat], progress.through(bytes)).finally(() =>
    progress.end(),
  );
  if (ask.json) return printJson(answer);
  const { rows, added, changed, removed, registered, dryRun } = answer;
  const what = `${added} added, ${changed} changed, ${removed} removed, ${rows - added - changed} as they were`;
  print(
    dryRun
      ? `would import ${count(rows, 'device')}: ${what}`
      : `imported ${count(rows, 'device')}: ${what}; ${registered} registered`,
  );
}

async function exportDevices({ output, ...ask }: ExportAsk): Promise<void> {
  const rowFormat = ask.format ?? (output === undefined ? 'csv' : formatOf(output));
  if (!rowFormat) throw new CommanderError(2, 'mtgate.export', `--format: is "${output}" to be csv or jsonl?`);
  const rows = receive(ask, `/devices/export?format=${rowFormat}`);
  if (output === undefined) return toStandardOutput(rows);
  const unfinished = `${output}.unfinished`;
  try {
    await pipeline(rows, createWriteStream(unfinished, { mode: 0o600 }));
    await rename(unfinished, output);
  } catch (fault) {
    rmSync(unfinished, { force: true });
    const { syscall, message } = fault as NodeJS.ErrnoException;
    throw syscall === undefined ? fault : new Error(`${output} cannot be written: ${message}`, { cause: fault });
  }
}

/** What others wrote is made harmless where a terminal would obey it. */
async function toStandardOutput(rows: AsyncIterable<Uint8Array>): Promise<void> {
  const { stdout } = process;
  const text = new TextDecoder();
  for await (const chunk of rows) {
    const shown = stdout.isTTY ? text.decode(chunk, { stream: true }).split('\n').map(printable).join('\n') : chunk;
    if (!stdout.write(shown)) await once(stdout, 'drain');
  }
}

function formatOf(file: string): RowFormat | undefined {
  if (/\.csv$/i.test(file)) return 'csv';
  return /\.(jsonl|ndjson)$/i.test(file) ? 'jsonl' : undefined;
}

async function opened(file: string): Promise<{ bytes: AsyncIterable<Uint8Array>; size: number | undefined }> {
  const handle = await open(file).catch((cause: Error) => {
    throw new Error(`${file} cannot be read: ${cause.message}`, { cause });
  });
  const stat = await handle.stat();
  if (stat.isDirectory()) throw new Error(`${file} cannot be read: it is a folder`);
  return { bytes: createReadStream(file, { fd: handle }), size: stat.isFile() ? stat.size : undefined };
}
