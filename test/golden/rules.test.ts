/**
 * The language of the rule files by its messages: each folder of rules/ is a
 * policy folder, and messages.txt what `check` says of it. Every message that
 * the code can write stands in one of them.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { expect, test } from 'vitest';
import { decodeText, type Issue } from '../../agent/core/document.ts';
import { prefix } from '../../agent/core/net.ts';
import { compilePolicy, type Surroundings } from '../../agent/policy/compile.ts';
import { runPolicyTests } from '../../agent/policy/policy-tests.ts';
import type { RuleFile } from '../../agent/policy/rules.ts';
import { ROOT } from '../child.ts';
import { formatted } from '../issues.ts';
import { digest } from '../rules.ts';

const CASES = join(ROOT, 'test/golden/rules');
const cases = readdirSync(CASES);

function messagesOf(folder: string): string {
  const names = readdirSync(join(CASES, folder)).sort();
  const decoded = names
    .filter((name) => name.endsWith('.yaml'))
    .map((file) => ({ file, ...decodeText(readFileSync(join(CASES, folder, file)), file) }));
  const undecoded = decoded.flatMap((one) => ('issue' in one ? one.issue : []));
  const files = decoded.flatMap((one) => ('text' in one ? one : []));
  const told = undecoded.length > 0 ? undecoded : judged(files, { digest, ...surroundingsOf(folder, names) });
  return told.map((issue) => `${formatted(issue)}\n`).join('');
}

function judged(files: readonly RuleFile[], surroundings: Surroundings): readonly Issue[] {
  const compilation = compilePolicy(files, surroundings);
  if ('issues' in compilation) return compilation.issues;
  return [...runPolicyTests(compilation.policy), ...compilation.warnings.map(asWarning)];
}

function asWarning(issue: Issue): Issue {
  return { ...issue, message: `warning: ${issue.message}` };
}

function surroundingsOf(folder: string, names: readonly string[]): Partial<Surroundings> {
  if (!names.includes('surroundings.json')) return {};
  const { ownSpaces = [], ...rest } = JSON.parse(readFileSync(join(CASES, folder, 'surroundings.json'), 'utf8'));
  return {
    ...rest,
    ownSpaces: ownSpaces.map((one: { prefix: string; owner: string }) => ({ ...one, prefix: prefix(one.prefix) })),
  };
}

test.each(cases)('%s', async (folder) => {
  const told = messagesOf(folder);
  expect(told).not.toBe('');
  await expect(told).toMatchFileSnapshot(join(CASES, folder, 'messages.txt'));
});

test('a file that is too long, or nested too deep', () => {
  const of = (text: string) => {
    const compilation = compilePolicy([{ file: 'rules.yaml', text }], { digest });
    return 'issues' in compilation ? compilation.issues.map(({ message }) => message) : [];
  };
  expect(of('#'.repeat(2 ** 22 + 1))).toEqual([`the file has more than ${2 ** 22} characters; split it`]);
  expect(of(`rules: ${'['.repeat(100)}`)).toContain('nested deeper than 64 levels');
});

/** Where messages of the language are written; each text in them that reads as a sentence is one. */
const SOURCES = [
  'core/document.ts',
  'core/yaml.ts',
  'core/fields.ts',
  'core/claims.ts',
  'policy/rule-schema.ts',
  'policy/rule-members.ts',
  'policy/trigger-schema.ts',
  'policy/checks.ts',
  'policy/condition.ts',
  'policy/warnings.ts',
  'policy/policy-tests.ts',
  'policy/filter-files.ts',
  'policy/packet-tests.ts',
];

/** Told in the test above, or by `explain`, or of what a defect of ours would be. */
const ELSEWHERE = [
  /^the file has more than/,
  /^nested deeper than/,
  /^nesting exceeded/,
  /^its condition/,
  /, or a list of these$/,
  /^a node is missing/,
  /^the policy has no server/,
  /^… without quotation marks$/,
  // Of the devices file, and of imports.
  /^an MSISDN: /,
  /^something else$/,
  /^an IMSI: /,
  /^an interface identifier /,
];

test('every message of the language stands in a case', () => {
  const told = cases.map((folder) => readFileSync(join(CASES, folder, 'messages.txt'), 'utf8')).join('');
  const silent = SOURCES.flatMap(sentencesOf).filter(
    (parts) =>
      !ELSEWHERE.some((one) => one.test(parts.join('…'))) && !new RegExp(parts.map(literally).join('.*')).test(told),
  );
  expect(silent.map((parts) => parts.join('…'))).toEqual([]);
});

/** The texts of a source file with a word, a space and another word in them, in the parts that stand between what is put in. */
function sentencesOf(file: string): string[][] {
  const found: string[][] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) || ts.isTypeNode(node)) return;
    if (ts.isStringLiteral(node) || ts.isNoSubstitutionTemplateLiteral(node)) found.push([node.text]);
    if (ts.isTemplateExpression(node))
      found.push([node.head.text, ...node.templateSpans.map(({ literal }) => literal.text)]);
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(file, readFileSync(join(ROOT, 'agent', file), 'utf8'), ts.ScriptTarget.Latest, true));
  return found.filter((parts) => parts.some((part) => /[a-z]{2,} [a-z]{2,}/i.test(part)));
}

function literally(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}
