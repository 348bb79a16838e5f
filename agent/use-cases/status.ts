/**
 * What `mtgate status` is told of the running agent, as the management socket
 * answers it. Values are read where they are kept, when somebody asks.
 */
import { type CertificateStatus, certificateStatus } from '../api/expiry.ts';
import type { Trust } from '../api/tls.ts';
import type { Closure } from '../closure/closure.ts';
import { type Site, takesFrames, xdpChoice } from '../closure/site.ts';
import type { Config, HookChoice } from '../config.ts';
import type { Clock } from '../core/ports.ts';
import type { Attachment, XdpRefusal } from '../dataplane/attachment.ts';
import type { GateCounters, PacketCount } from '../dataplane/dataplane.ts';
import type { Gate } from '../dataplane/gate.ts';
import type { PolicySwitch } from '../editions/policy-switch.ts';
import type { FolderWatch } from '../files/rule-folder.ts';
import { deniedPackets } from '../inspector/account.ts';
import type { InspectorReading } from '../inspector/inspector.ts';
import type { NatRecordReading } from '../nat/nat-record.ts';
import type { LastFault } from './last-fault.ts';
import type { RecentDenials } from './recent-denials.ts';

/** The part that only main knows. */
export interface RunningStatus {
  /** Whether gate and base are in place; what is missing, if not. */
  readonly closed: boolean;
  readonly registeredDevices: number;
  readonly gap?: string;
  /** The operator wants no new grants. */
  readonly draining: boolean;
  readonly interfaces: {
    readonly outside: string;
    readonly inside: readonly { readonly realm: string; readonly interface: string }[];
  };
  /** In words: interfaces that are not there, kernel settings that are not as they must be. */
  readonly missingInterfaces: readonly string[];
  readonly wrongSysctls: readonly string[];
  /** Place, interface and kind, such as `outsideIngress eth0 tcx`. */
  readonly attachments: readonly string[];
  /** Of each interface that is there: where its packets meet the gate first, and why there. */
  readonly hooks: readonly HookStatus[];
  readonly heartbeatAgeSeconds: number;
  /** So long a heartbeat may be missing before the gate refuses every grant. */
  readonly orphanGraceSeconds: number;
  readonly packets: ReturnType<typeof packetsOf>;
  readonly deniedInLastMinute: number;
  readonly inspector: InspectorReading;
  /** Who had which public endpoint: whether that is recorded, and how much was. */
  readonly natRecord: NatRecordReading;
  readonly certificates: readonly CertificateStatus[];
  readonly edition: EditionStatus;
  readonly lastFault?: LastFault;
}

/** Which edition of the rules is in force, and how firmly. */
export interface EditionStatus {
  readonly number: number;
  readonly at: string;
  readonly by: string;
  readonly how: string;
  /** On trial: how long still until it goes back by itself. */
  readonly confirmSecondsLeft?: number;
  /** How the rule files on disk are not those of the edition in force, in words. */
  readonly folder?: string;
}

export interface Status extends RunningStatus {
  readonly gateway: string;
  readonly policy: string;
  readonly liveGrants: number;
  /** Of those that live: how many are closed until it is confirmed who holds their addresses. */
  readonly heldGrants: number;
  readonly waitingGrants: number;
  readonly restingEndpoints: number;
  /** `ipv6`: of either protocol, together with those that are not translated. */
  readonly freeEndpoints: { readonly ipv4Tcp: number; readonly ipv4Udp: number; readonly ipv6: number };
  readonly bindings: number;
}

/** Where the values are kept. */
interface Parts {
  readonly config: Pick<Config, 'outside' | 'inside' | 'gate'>;
  readonly closure: Closure;
  readonly gate: Pick<Gate, 'counters' | 'attachments' | 'xdpRefusals' | 'lastHeartbeat'>;
  readonly inspector: { reading(): InspectorReading };
  readonly natRecord: { reading(): NatRecordReading };
  readonly recent: RecentDenials;
  readonly trust: Trust;
  readonly draining: boolean;
  readonly registry: { readonly size: number };
  readonly policies: PolicySwitch;
  readonly folder: FolderWatch;
  readonly fault: LastFault | undefined;
}

export function runningStatus(parts: Parts, clock: Clock): RunningStatus {
  const { config, closure, gate, inspector, natRecord, recent, trust, draining, registry, policies, folder, fault } =
    parts;
  const counters = gate.counters();
  const gap = closure.objection();
  return {
    closed: gap === undefined,
    ...(gap !== undefined && { gap }),
    draining,
    registeredDevices: registry.size,
    interfaces: {
      outside: config.outside.interface,
      inside: config.inside.map(({ realm, interface: link }) => ({ realm, interface: link })),
    },
    missingInterfaces: closure.site.absent.map(({ why }) => why),
    wrongSysctls: closure.wrongSysctls.map(({ name, value, expected }) => `${name} is ${value}, not ${expected}`),
    attachments: gate.attachments().map(attachmentText),
    hooks: hooksOf(config, closure.site, gate.xdpRefusals()),
    heartbeatAgeSeconds: heartbeatAgeSeconds(gate, clock),
    orphanGraceSeconds: config.gate.orphanGraceSeconds,
    packets: packetsOf(counters),
    deniedInLastMinute: recent.inLastMinute(clock.monotonicNs(), deniedPackets(counters)),
    inspector: inspector.reading(),
    natRecord: natRecord.reading(),
    certificates: certificateStatus(trust, clock.nowMs()),
    edition: editionStatus(policies, folder),
    ...(fault && { lastFault: fault }),
  };
}

function editionStatus({ inForce: { edition }, secondsLeft }: PolicySwitch, folder: FolderWatch): EditionStatus {
  const { number, atMs, by, how, digest } = edition;
  const difference = folder.difference(digest);
  return {
    ...{ number, at: new Date(atMs).toISOString(), by: by.name, how },
    ...(secondsLeft !== undefined && { confirmSecondsLeft: secondsLeft }),
    ...(difference !== undefined && { folder: folderText(number, difference) }),
  };
}

/** What whoever edits rule files is told until they are in force. */
export function folderText(edition: number, difference: string): string {
  return difference === 'differ'
    ? `rule files on disk differ from edition ${edition}: mtgate diff, mtgate apply`
    : `the rule folder ${difference}; edition ${edition} goes on`;
}

/** How long ago the gate last heard the agent. */
export function heartbeatAgeSeconds(gate: Pick<Gate, 'lastHeartbeat'>, clock: Clock): number {
  return Number(clock.monotonicNs() - gate.lastHeartbeat()) / 1e9;
}

/** Where an interface's packets meet the gate first. */
export interface HookStatus {
  readonly interface: string;
  readonly hook: Exclude<HookChoice, 'auto'>;
  readonly why: string;
}

function hooksOf(
  config: Pick<Config, 'outside' | 'inside'>,
  { outside, inside }: Site,
  refusals: readonly XdpRefusal[],
): readonly HookStatus[] {
  const ways = [
    { link: outside, asked: config.outside.hook, isOutside: true },
    ...config.inside.map(({ realm, hook }) => ({ link: inside.get(realm), asked: hook, isOutside: false })),
  ];
  return ways.flatMap(({ link, asked, isOutside }): HookStatus[] => {
    if (!link) return [];
    const { mode, why } = xdpChoice(asked, link);
    const refusal = refusals.find((one) => one.interface === link.name);
    if (!mode || refusal) return [{ interface: link.name, hook: 'tc', why: refusal?.why ?? why }];
    const beyond = ways.flatMap((other) =>
      other.isOutside !== isOutside && other.link && !takesFrames(other.link, other.asked) ? other.link.name : [],
    );
    const rest =
      beyond.length > 0 ? `; TC carries what goes to ${beyond.join(', ')}, which takes no redirected frames` : '';
    return [{ interface: link.name, hook: mode === 'native' ? 'xdp' : 'xdp-generic', why: `${why}${rest}` }];
  });
}

/** An attachment in a word: `outsideIngress outside tcx`. */
export const attachmentText = ({ hook, interface: link, kind }: Attachment) => `${hook} ${link.name} ${kind}`;

/** Counts as a person wants them: packets only, and of denials only those that happened. */
export function packetsOf({
  denied,
  grantedIn,
  grantedOut,
  passed,
  sampled,
  errorsCarried,
  echoesAnswered,
  atXdp,
}: GateCounters) {
  const number = ({ packets }: PacketCount) => Number(packets);
  const happened = Object.entries(denied).flatMap(([reason, count]) =>
    count.packets > 0n ? [[reason, number(count)] as const] : [],
  );
  return {
    grantedIn: number(grantedIn),
    grantedOut: number(grantedOut),
    passed: number(passed),
    sampled: number(sampled),
    errorsCarried: number(errorsCarried),
    echoesAnswered: number(echoesAnswered),
    atXdp: number(atXdp),
    denied: Object.fromEntries(happened) as Readonly<Record<string, number>>,
  };
}
