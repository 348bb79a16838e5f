/**
 * The names of all counters and gauges, one table (Prometheus text format).
 * Values are read where they are kept, when they are asked for: nothing is
 * counted twice.
 */

import { Counter, Gauge, Registry } from 'prom-client';
import type { RadiusStatus } from './api/radius-routes.ts';
import type { GapKind } from './closure/closure.ts';
import type { ShedReason, TlsReason } from './core/handshakes.ts';
import { DENIAL_REASONS } from './core/reasons.ts';
import type { RefusalReason } from './core/refusals.ts';
import { PROTOCOLS } from './core/words.ts';
import type { GateCounters } from './dataplane/dataplane.ts';
import type { EndCause } from './grants/lifecycle.ts';
import type { Account } from './inspector/account.ts';
import type { InspectorReading } from './inspector/inspector.ts';
import type { NatRecordReading } from './nat/nat-record.ts';
import type { Would } from './policy/staged.ts';
import type { Outcome } from './reports/delivery.ts';
import type { DeliveryOutcome } from './triggers/delivery.ts';
import type { TriggerEndCause } from './triggers/lifecycle.ts';
import type { TriggerSourceReading } from './triggers/trigger-source.ts';

/** Where the values are kept. */
export interface Readings {
  gate(): GateCounters;
  /** Packets that each filter met; it may be some seconds old. */
  filterPackets(): Promise<readonly { readonly filter: string; readonly staged: boolean; readonly packets: number }[]>;
  /** Packets that would have begun a device's flow, beyond its cap; it may be some seconds old. */
  refusedFlows(): Promise<number>;
  liveGrants(): number;
  heldGrants(): number;
  waitingGrants(): number;
  /** How many MTC users have set their servers themselves, and how many preferences there are. */
  desk(): { readonly authorised: number; readonly preferences: number };
  pendingTriggers(): number;
  triggersUnderWay(): number;
  /** Undefined where there are no triggers. */
  triggerSource(): TriggerSourceReading | undefined;
  registeredDevices(): number;
  /** Undefined where there is no accounting server. */
  radius(): RadiusStatus | undefined;
  restingEndpoints(): number;
  freeEndpoints(family: 'ipv4' | 'ipv6', protocol: 'tcp' | 'udp'): number;
  heartbeatAgeSeconds(): number;
  closed(): boolean;
  missingInterfaces(): number;
  wrongSysctls(): number;
  /** Of certificates and CRLs in force. */
  timesLeft(): readonly {
    readonly kind: string;
    readonly name: string;
    readonly usable: boolean;
    readonly secondsLeft: number;
  }[];
  account(): Account;
  inspector(): InspectorReading;
  natRecord(): NatRecordReading;
  /** Refusals that could not be kept. */
  refusalsGivenUp(): number;
  /** Lines of the log that a journal which stood still had no room for. */
  linesLeftOut(): number;
  /** Every sink of the rule files. */
  sinks(): readonly {
    readonly record: { readonly givenUp: number };
    readonly length: number;
    readonly failures: number;
  }[];
  draining(): boolean;
  /** The number of the edition in force; whether the rule folder says something else; a trial's seconds left. */
  edition(): { readonly number: number; readonly folderDiffers: boolean; readonly secondsLeft: number | undefined };
  /** How late the agent's loop was, in seconds, since it was last asked. */
  loopDelay(): { readonly p99Seconds: number; readonly worstSeconds: number };
}

export interface Metrics {
  readonly refused: (reason: RefusalReason) => void;
  readonly granted: () => void;
  readonly extended: () => void;
  readonly ended: (cause: EndCause) => void;
  readonly triggerAccepted: () => void;
  readonly triggerTried: (outcome: DeliveryOutcome) => void;
  readonly triggerEnded: (cause: TriggerEndCause) => void;
  readonly staged: (rule: string, would: Would | 'end', times: number) => void;
  readonly gapFound: (kind: GapKind) => void;
  readonly handshakeRefused: (reason: TlsReason) => void;
  readonly connectionShed: (reason: ShedReason) => void;
  readonly streamCut: () => void;
  readonly pushed: (outcome: Outcome) => void;
  text(): Promise<string>;
}

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [number, Labels?];

export function openMetrics(readings: Readings): Metrics {
  const registry = new Registry();
  const registers = [registry];
  /** A metric of values that are kept elsewhere. */
  const read = (
    Kind: typeof Gauge | typeof Counter,
    name: string,
    help: string,
    samples: () => readonly Sample[] | Promise<readonly Sample[]>,
    labelNames: string[] = [],
  ) =>
    new Kind({
      name,
      help,
      labelNames,
      registers,
      async collect() {
        const values = await samples();
        this.reset();
        for (const [value, labels = {}] of values) this.inc(labels, value);
      },
    });
  /** A counter that is kept here. */
  const count = (name: string, help: string, labelNames: string[] = []) =>
    new Counter({ name, help, labelNames, registers });

  read(
    Counter,
    'mtgate_packets_total',
    'Packets that the gate carried (ICMP errors about them by themselves), answered, or passed on to the base. Two series are parts of others, not to be added: atXdp, those carried or denied that were finished at XDP; sampled, those denied (mtgate_denied_packets_total) that were handed on to be looked at',
    () => {
      const counters = readings.gate();
      const verdicts = [
        'grantedIn',
        'grantedOut',
        'passed',
        'sampled',
        'errorsCarried',
        'echoesAnswered',
        'atXdp',
      ] as const;
      return verdicts.map((verdict) => [Number(counters[verdict].packets), { verdict }]);
    },
    ['verdict'],
  );
  read(
    Counter,
    'mtgate_denied_packets_total',
    'Packets that the gate denied',
    () => {
      const { denied } = readings.gate();
      return DENIAL_REASONS.map((reason) => [Number(denied[reason].packets), { reason }]);
    },
    ['reason'],
  );
  read(
    Counter,
    'mtgate_filter_packets_total',
    'Packets that a filter met; of a staged one, would have',
    async () => {
      const filters = await readings.filterPackets();
      return filters.map(({ filter, staged, packets }) => [packets, { filter, staged: String(staged) }]);
    },
    ['filter', 'staged'],
  );
  read(
    Counter,
    'mtgate_flow_cap_packets_total',
    'Packets of devices that would have begun a flow more than a device may have, and were dropped',
    async () => [[await readings.refusedFlows()]],
  );
  read(Gauge, 'mtgate_live_grants', 'Grants that are live', () => [[readings.liveGrants()]]);
  read(Gauge, 'mtgate_held_grants', 'Of the live ones, those held until their bindings are confirmed', () => [
    [readings.heldGrants()],
  ]);
  read(Gauge, 'mtgate_desk_authorised_sets', 'MTC users that have set their authorised servers themselves', () => [
    [readings.desk().authorised],
  ]);
  read(Gauge, 'mtgate_desk_preferences', 'Preferences of MTC users', () => [[readings.desk().preferences]]);
  read(Gauge, 'mtgate_waiting_grants', 'Requests for grants that wait for their device', () => [
    [readings.waitingGrants()],
  ]);
  read(Gauge, 'mtgate_pending_triggers', 'Triggers that are pending', () => [[readings.pendingTriggers()]]);
  read(Gauge, 'mtgate_triggers_under_way', 'Triggers that were sent, and whose devices have not answered yet', () => [
    [readings.triggersUnderWay()],
  ]);
  read(
    Counter,
    'mtgate_trigger_source_datagrams_total',
    'Datagrams of devices that came to the source port of triggers: what they said of a trigger under way (answer), and all else, such as an answer that came too late (stray)',
    () => {
      const { received, stray } = readings.triggerSource() ?? { received: 0, stray: 0 };
      return [
        [received - stray, { kind: 'answer' }],
        [stray, { kind: 'stray' }],
      ];
    },
    ['kind'],
  );
  read(Gauge, 'mtgate_accounting_sessions', 'Sessions of RADIUS accounting that live', () => [
    [readings.radius()?.sessions ?? 0],
  ]);
  read(
    Counter,
    'mtgate_accounting_events_total',
    'What NASes told by RADIUS accounting, by what became of it',
    () => (readings.radius()?.findings ?? []).map(({ client, finding, count }) => [count, { client, finding }]),
    ['client', 'finding'],
  );
  read(
    Counter,
    'mtgate_radius_dropped_total',
    'RADIUS datagrams that came to nothing, and were not answered',
    () =>
      (readings.radius()?.dropped ?? []).map(({ client = 'strangers', reason, count }) => [count, { client, reason }]),
    ['client', 'reason'],
  );
  read(Counter, 'mtgate_radius_lost_total', 'RADIUS datagrams that the kernel had no room for', () => [
    [readings.radius()?.lostInKernel ?? 0],
  ]);
  read(Gauge, 'mtgate_registered_devices', 'Devices that are registered', () => [[readings.registeredDevices()]]);
  read(Gauge, 'mtgate_resting_endpoints', 'External endpoints at rest', () => [[readings.restingEndpoints()]]);
  read(
    Gauge,
    'mtgate_free_endpoints',
    'External endpoints that can be allocated; IPv6 of either protocol, and what is not translated, take from one supply',
    () => [
      ...PROTOCOLS.map((protocol): Sample => [readings.freeEndpoints('ipv4', protocol), { family: 'ipv4', protocol }]),
      [readings.freeEndpoints('ipv6', 'tcp'), { family: 'ipv6', protocol: 'any' }],
    ],
    ['family', 'protocol'],
  );
  read(Gauge, 'mtgate_heartbeat_age_seconds', 'Time since the gate last heard the agent', () => [
    [readings.heartbeatAgeSeconds()],
  ]);
  read(Gauge, 'mtgate_closed', '1 while gate, base and blackholes are in place', () => [[readings.closed() ? 1 : 0]]);
  read(Gauge, 'mtgate_missing_interfaces', 'Interfaces of agent.yaml that are not there, or cannot be used', () => [
    [readings.missingInterfaces()],
  ]);
  read(Gauge, 'mtgate_wrong_sysctls', 'Kernel settings that are not as the gateway needs them', () => [
    [readings.wrongSysctls()],
  ]);
  read(Gauge, 'mtgate_draining', '1 while the operator wants no new grants', () => [[readings.draining() ? 1 : 0]]);
  read(Gauge, 'mtgate_policy_edition', 'The edition of the rules that is in force', () => [
    [readings.edition().number],
  ]);
  read(
    Gauge,
    'mtgate_policy_folder_differs',
    '1 while the rule files on disk are not those of the edition in force',
    () => [[readings.edition().folderDiffers ? 1 : 0]],
  );
  read(
    Gauge,
    'mtgate_policy_confirm_seconds_left',
    'Of an edition on trial: time until it goes back by itself; absent where none is',
    () => {
      const { secondsLeft } = readings.edition();
      return secondsLeft === undefined ? [] : [[secondsLeft]];
    },
  );
  read(
    Gauge,
    'mtgate_loop_delay_seconds',
    'How late the agent was for what was due, since the last reading: the 99th of a hundred (p99), and the worst',
    () => {
      const { p99Seconds, worstSeconds } = readings.loopDelay();
      return [
        [p99Seconds, { of: 'p99' }],
        [worstSeconds, { of: 'worst' }],
      ];
    },
    ['of'],
  );

  read(
    Gauge,
    'mtgate_certificate_expiry_seconds',
    'Time until a certificate or CRL in force ends; below 0 after it, 0 for a CRL file that cannot be read',
    () => readings.timesLeft().map(({ kind, name, secondsLeft }) => [secondsLeft, { kind, name }]),
    ['kind', 'name'],
  );
  read(
    Gauge,
    'mtgate_crl_usable',
    '0 where the CRLs of a client CA cannot be used: its clients are refused',
    () => {
      const crls = readings.timesLeft().filter(({ kind }) => kind === 'crl');
      return crls.map(({ name, usable }) => [usable ? 1 : 0, { name }]);
    },
    ['name'],
  );

  read(
    Gauge,
    'mtgate_denied_packets_account',
    'Denied packets since the start: seen = inspected + unsampled + lost (what is on its way counts as lost)',
    () => Object.entries(readings.account()).map(([part, packets]) => [packets, { part }]),
    ['part'],
  );
  read(Gauge, 'mtgate_inspector_sees', "1 while the inspector's last self-test passed", () => [
    [readings.inspector().state === 'sees' ? 1 : 0],
  ]);
  read(Counter, 'mtgate_inspector_blind_total', 'Self-tests of the inspector that failed', () => [
    [readings.inspector().blindnesses],
  ]);
  read(Counter, 'mtgate_inspector_deaths_total', "Times the inspector's child ended and was started again", () => [
    [readings.inspector().deaths],
  ]);
  read(
    Counter,
    'mtgate_inspector_unread_total',
    'Messages of the NFLOG group that were not ours, or damaged',
    () => {
      const { notOurs, damaged } = readings.inspector();
      return [
        [notOurs, { why: 'notOurs' }],
        [damaged, { why: 'damaged' }],
      ];
    },
    ['why'],
  );
  read(Gauge, 'mtgate_nat_recording', '1 while it is recorded who has which public endpoint', () => [
    [readings.natRecord().recording ? 1 : 0],
  ]);
  read(
    Counter,
    'mtgate_nat_flows_total',
    'Flows of devices that were recorded, by what happened to them',
    () => {
      const { begun, ended } = readings.natRecord();
      return [
        [begun, { what: 'begun' }],
        [ended, { what: 'ended' }],
      ];
    },
    ['what'],
  );
  read(
    Counter,
    'mtgate_nat_lost_total',
    'What the NAT record missed: events that the kernel had no room for (kernel), or agent and disk had no time for (recorder); messages that the collector did not take (collector)',
    () => {
      const { lostInKernel, givenUp, unsent } = readings.natRecord();
      return [
        [lostInKernel, { where: 'kernel' }],
        [givenUp, { where: 'recorder' }],
        [unsent, { where: 'collector' }],
      ];
    },
    ['where'],
  );
  read(
    Counter,
    'mtgate_nat_recorder_deaths_total',
    'Times the process that keeps the NAT record ended and was started again',
    () => [[readings.natRecord().deaths]],
  );
  read(Counter, 'mtgate_refusals_given_up_total', 'Refusals that the disk did not take in time', () => [
    [readings.refusalsGivenUp()],
  ]);
  read(Counter, 'mtgate_log_lines_left_out_total', 'Lines of the log that the journal did not take in time', () => [
    [readings.linesLeftOut()],
  ]);

  read(Gauge, 'mtgate_push_queue_events', 'Events that wait for their sinks', () => [
    [readings.sinks().reduce((sum, { length }) => sum + length, 0)],
  ]);
  read(Gauge, 'mtgate_failing_sinks', 'Sinks whose last attempt failed', () => [
    [readings.sinks().filter(({ failures }) => failures > 0).length],
  ]);
  read(Gauge, 'mtgate_push_events_given_up', 'Events that sinks of the rule files did not take in time', () => [
    [readings.sinks().reduce((sum, { record }) => sum + record.givenUp, 0)],
  ]);

  const handshakes = count('mtgate_handshakes_refused_total', 'TLS handshakes that failed', ['reason']);
  const shed = count('mtgate_connections_shed_total', 'API connections closed for their share or time', ['reason']);
  const streamsCut = count('mtgate_streams_cut_total', 'Readers of a stream that did not keep up');
  const pushed = count('mtgate_pushes_total', 'Attempts to push an event to a sink, by what became of them', [
    'outcome',
  ]);
  const refused = count('mtgate_refusals_total', 'Requests that were not granted', ['reason']);
  const granted = count('mtgate_grants_opened_total', 'Grants opened');
  const extended = count('mtgate_grants_extended_total', 'Grants extended');
  const ended = count('mtgate_grants_ended_total', 'Grants ended', ['cause']);
  const triggersAccepted = count('mtgate_triggers_accepted_total', 'Triggers accepted');
  const triggersTried = count('mtgate_trigger_attempts_total', 'Attempts to deliver a trigger', ['outcome']);
  const triggersEnded = count('mtgate_triggers_ended_total', 'Triggers ended', ['cause']);
  const staged = count('mtgate_staged_decisions_total', 'What staged rules would have decided otherwise', [
    'rule',
    'would',
  ]);
  const gaps = count('mtgate_gaps_total', 'Parts of the closure found missing or changed, and put back', ['kind']);
  return {
    refused: (reason) => refused.inc({ reason }),
    granted: () => granted.inc(),
    extended: () => extended.inc(),
    ended: (cause) => ended.inc({ cause }),
    triggerAccepted: () => triggersAccepted.inc(),
    triggerTried: (outcome) => triggersTried.inc({ outcome }),
    triggerEnded: (cause) => triggersEnded.inc({ cause }),
    staged: (rule, would, times) => staged.inc({ rule, would }, times),
    gapFound: (kind) => gaps.inc({ kind }),
    handshakeRefused: (reason) => handshakes.inc({ reason }),
    connectionShed: (reason) => shed.inc({ reason }),
    streamCut: () => streamsCut.inc(),
    pushed: (outcome) => pushed.inc({ outcome: outcome.ok ? 'taken' : outcome.fault }),
    text: () => registry.metrics(),
  };
}
