/** `explain`: what would become of a request, by the files alone or as the running agent sees it. */
import { CommanderError } from 'commander';
import { type Family, parseAddress } from '../core/net.ts';
import { type Protocol, parseExternalId } from '../core/words.ts';
import { loadDevices } from '../files/operator-files.ts';
import { decide } from '../policy/decide.ts';
import { explain } from '../policy/explain.ts';
import { NO_USAGE } from '../policy/policy.ts';
import type { Question } from '../policy/question.ts';
import { type Ask, call } from './client.ts';
import { printJson, printLines } from './print.ts';
import { readTrialFiles, serverIn, type TrialFiles } from './trial-files.ts';

export interface Trial extends Ask, TrialFiles {
  readonly server: string;
  readonly device: string;
  readonly protocol: Protocol;
  readonly port: number;
  readonly duration: number;
  readonly from?: string;
  readonly live?: boolean;
}

/** What was explained: the verdict in a word, and every step in a line. */
interface Explained {
  readonly verdict: string;
  readonly lines: readonly string[];
}

export async function explainTrial(trial: Trial): Promise<void> {
  const explained = trial.live ? await explainLive(trial) : explainOffline(trial);
  if (trial.json) printJson(explained);
  else printLines(explained.lines);
}

function explainLive(trial: Trial): Promise<Explained> {
  const { server, device, protocol, port, duration, from, rules, config } = trial;
  if (rules !== undefined || config !== undefined)
    throw new CommanderError(2, 'mtgate.explain', '--live asks the running agent: it takes no --rules and no --config');
  const asked = { server, device, protocol, port, durationSeconds: duration, ...(from !== undefined && { from }) };
  return call<Explained>(trial, 'POST', '/explain', asked);
}

/** Judged by the files alone: nobody holds a grant, and a device that is in no file is bound in both families. */
function explainOffline({ server, device, protocol, port, duration, from, ...files }: Trial): Explained {
  const externalId = parseExternalId(device);
  if (!externalId)
    throw new CommanderError(2, 'mtgate.explain', `"${device}" is no external identifier (local@domain)`);
  const { config, policy } = readTrialFiles(files);
  const known = serverIn(policy, server);
  const requestAddress = from === undefined ? known.apiSources[0]?.address : parseAddress(from);
  if (!requestAddress) throw new CommanderError(2, 'mtgate.explain', `"${from}" is no IP address`);
  const listed = config && loadDevices(config).find((one) => one.device.externalId === externalId);
  const boundFamilies: Family[] = listed ? listed.bindings.map((inner) => inner.address.family) : ['ipv4', 'ipv6'];
  const facts = { externalId, attributes: listed?.device.attributes ?? {}, boundFamilies };
  const question: Question = {
    server: known.name,
    device: config && !listed ? undefined : { ...facts, ...(listed && { inner: listed.bindings }) },
    protocol,
    port,
    durationSeconds: duration,
    requestAddress,
    usage: NO_USAGE,
    nowMs: Date.now(),
  };
  const decision = decide(policy, question);
  return { verdict: decision.verdict, lines: explain(policy, question, decision) };
}
