/**
 * Rule files: YAML in; what operators wrote, or every issue, out. All files
 * of the folder together are the policy: sections and files may come in any
 * order. Here each file is read for itself, by its schema (rule-schema.ts);
 * what needs the whole is judged in compile.ts, which points back into the
 * text by `locate`.
 */
import { type Document, type Issue, type Path, type Place, readDocument } from '../core/document.ts';
import type { WrittenFilter } from './filter-files.ts';
import {
  ruleFile,
  type WrittenAnyTest,
  type WrittenDeviceGroup,
  type WrittenFile,
  type WrittenMtcUser,
  type WrittenPacketTest,
  type WrittenRule,
  type WrittenServer,
  type WrittenServerGroup,
  type WrittenTest,
  type WrittenTriggerTest,
} from './rule-schema.ts';
import type { WrittenTriggerRule } from './trigger-schema.ts';

/** A rule file as its text. */
export interface RuleFile {
  readonly file: string;
  readonly text: string;
}

/** One server, MTC user, group, rule or test, with the way back to its text. */
export interface Entry<Value> {
  readonly name: string;
  readonly value: Value;
  locate(...path: Path): Place;
  /** Where a character of a text stands. */
  locateIn(at: number, ...path: Path): Place;
}

/** All rule files as one. */
export interface Written {
  readonly servers: readonly Entry<WrittenServer>[];
  readonly mtcUsers: readonly Entry<WrittenMtcUser>[];
  readonly deviceGroups: readonly Entry<WrittenDeviceGroup>[];
  readonly serverGroups: readonly Entry<WrittenServerGroup>[];
  readonly rules: readonly Entry<WrittenRule>[];
  readonly triggers: readonly Entry<WrittenTriggerRule>[];
  readonly filters: readonly Entry<WrittenFilter>[];
  readonly tests: readonly Entry<WrittenTest>[];
  readonly triggerTests: readonly Entry<WrittenTriggerTest>[];
  readonly packetTests: readonly Entry<WrittenPacketTest>[];
}

/** What stands in the files that are right, and every issue of the others. */
export interface RulesReading {
  readonly written: Written;
  readonly issues: readonly Issue[];
}

export function readRules(files: readonly RuleFile[]): RulesReading {
  const readings = files.map(({ file, text }) => readDocument(text, file, ruleFile));
  const issues = readings.flatMap((reading) => ('issues' in reading ? reading.issues : []));
  const documents = readings.flatMap((reading) => ('document' in reading ? reading.document : []));
  const named = <Value>(key: string, of: (value: WrittenFile) => Readonly<Record<string, Value>>) =>
    documents.flatMap(({ value, locate }) =>
      Object.entries(of(value)).map(([name, one]) => entry(name, one, locate, [key, name])),
    );
  /** Those that may be staged, one by one or with their file. */
  const identified = <Value extends { readonly id: string }>(
    key: string,
    of: (value: WrittenFile) => readonly Value[],
  ) =>
    documents.flatMap(({ value, locate }) =>
      of(value).map((one, i) => entry(one.id, { stage: value.stage ?? false, ...one }, locate, [key, i])),
    );
  const tests = <Value>(kindOf: (test: WrittenAnyTest) => Value | undefined) =>
    documents.flatMap(({ value: { tests, stage = false }, locate }) =>
      tests.flatMap((test, i) => {
        const value = kindOf({ stage, ...test });
        return value === undefined ? [] : entry(test.name, value, locate, ['tests', i]);
      }),
    );
  return {
    issues,
    written: {
      servers: named('servers', ({ servers }) => servers),
      mtcUsers: named('mtcUsers', ({ mtcUsers }) => mtcUsers),
      deviceGroups: named('deviceGroups', ({ deviceGroups }) => deviceGroups),
      serverGroups: named('serverGroups', ({ serverGroups }) => serverGroups),
      rules: identified('rules', ({ rules }) => rules),
      triggers: identified('triggers', ({ triggers }) => triggers),
      filters: identified('filters', ({ filters }) => filters),
      tests: tests(({ request, ...test }) => request && { request, ...test }),
      triggerTests: tests(({ trigger, ...test }) => trigger && { trigger, ...test }),
      packetTests: tests(({ packet, ...test }) => packet && { packet, ...test }),
    },
  };
}

function entry<Value>(name: string, value: Value, locate: Document<unknown>['locate'], at: Path): Entry<Value> {
  return {
    name,
    value,
    locate: (...path) => locate([...at, ...path]),
    locateIn: (character, ...path) => locate([...at, ...path], character),
  };
}
