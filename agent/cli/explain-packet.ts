/** `explain packet`: what the whole gateway would do with a packet, by the files alone. */
import { CommanderError } from 'commander';
import type { Issue } from '../core/document.ts';
import { PROTOCOLS } from '../core/words.ts';
import { loadDevices, walkSite } from '../files/operator-files.ts';
import { packetIssues, packet as packetSchema, walkedOf } from '../policy/packet-tests.ts';
import { outcomeText, walkPacket } from '../policy/packet-walk.ts';
import { printJson, printLines } from './print.ts';
import { readTrialFiles, serverIn, type TrialFiles } from './trial-files.ts';

export interface PacketTrial extends TrialFiles {
  readonly from: string;
  readonly to: string;
  readonly protocol: string;
  readonly port?: number;
  readonly sourcePort?: number;
  readonly type?: string;
  readonly grantedTo?: string;
  readonly json?: boolean;
}

/** Read as a policy test would be, so that what was tried here can be kept there. */
export function explainPacket(trial: PacketTrial): void {
  const { from, to, protocol, port, sourcePort, type, grantedTo } = trial;
  const written = Object.entries({ from, to, protocol, port, sourcePort, type }).flatMap(([key, value]) =>
    value === undefined ? [] : [[key, String(value)]],
  );
  const read = packetSchema.safeParse(Object.fromEntries(written));
  const nowhere = () => ({ file: '', line: 0, column: 0 });
  const issues = read.success
    ? [...packetIssues(read.data, nowhere)]
    : (read.error.issues as readonly { message: string }[]);
  const [issue] = issues as readonly Pick<Issue, 'message'>[];
  if (!read.success || issue) throw new CommanderError(2, 'mtgate.explain', issue?.message ?? 'no such packet');

  const { config, policy } = readTrialFiles(trial);
  const device = [read.data.from, read.data.to].flatMap((end) => ('device' in end ? end.device : []))[0];
  const listed = config && loadDevices(config).find((one) => one.device.externalId === device);
  const packet = walkedOf(read.data, listed?.device.attributes ?? {});
  const walk = walkPacket(policy, { ...packet, given: givenTo(grantedTo) }, config && walkSite(config));
  const { verdict } = walk.outcome;
  const lines = walk.lines.map(
    ({ step, seen, passed }) => `  ${(passed ? 'yes' : 'no').padEnd(4)}${step.padEnd(10)}${seen}`,
  );
  const outcome = outcomeText(walk.outcome);
  if (trial.json) printJson({ verdict, outcome, lines });
  else printLines([`${from} to ${to}, ${protocol}: ${outcome}`, ...lines]);

  function givenTo(name: string | undefined) {
    if (name === undefined) return [];
    const server = serverIn(policy, name);
    const ofGrants = PROTOCOLS.find((one) => one === protocol);
    const ofDevice = packet.from.device ? sourcePort : port;
    const whose = packet.from.device ?? packet.to.device;
    if (!ofGrants || ofDevice === undefined || !whose) return [];
    return [{ server: server.name, device: whose.externalId, protocol: ofGrants, port: ofDevice }];
  }
}
