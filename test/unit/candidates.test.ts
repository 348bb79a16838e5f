/** What is offered at the cursor of a command line. */
import { Argument, Command, Option } from 'commander';
import { expect, test } from 'vitest';
import { candidates, type Values } from '../../agent/cli/candidates.ts';

const program = new Command('mtgate').description('all');
program.command('status').description('how it is').option('--json', 'for programs');
const grants = program.command('grants').description('grants');
grants
  .command('list')
  .option('--device <device>', 'those on it')
  .option('--file <file>', 'a path')
  .addOption(new Option('--protocol <protocol>', 'of the flow').choices(['tcp', 'udp']));
grants.command('revoke [grantIds...]');
program.command('completion').addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']));
program.command('check [folder]');
program.command('hidden', { hidden: true });

const values: Values = {
  device: async () => [
    { word: 'm1@a.example' },
    { word: 'm1@a.example' },
    { word: '$(reboot)@a.example' },
    { word: 'x y' },
  ],
  grantIds: async () => [{ word: '01AB', what: 'to\u001b[2J m1' }, { word: '01CD' }],
};

test.each([
  [[''], ['status', 'grants', 'completion', 'check', 'help']],
  [['gr'], ['grants']],
  [
    ['grants', ''],
    ['list', 'revoke', 'help'],
  ],
  [['grants', 'list', '--d'], ['--device']],
  [
    ['grants', 'list', '-'],
    ['--device', '--file', '--protocol', '--help'],
  ],
  [
    ['grants', 'list', '--protocol', ''],
    ['tcp', 'udp'],
  ],
  [['grants', 'list', '--file', 'x'], [':files']],
  [['check', 'ru'], [':files']],
  [['completion', 'f'], ['fish']],
  [['completion', 'bash', ''], []],
  [
    ['grants', 'revoke', '01AB', '01'],
    ['01AB', '01CD'],
  ],
  [
    ['status', '--json', '--'],
    ['--json', '--help'],
  ],
  [
    ['nonsense', ''],
    ['status', 'grants', 'completion', 'check', 'help'],
  ],
  [[], ['status', 'grants', 'completion', 'check', 'help']],
])('%j: %j', async (words, offered) => {
  expect((await candidates(program, words, values)).map(({ word }) => word)).toEqual(offered);
});

test('names that a shell would read as more than a name are not offered; texts are harmless; once each', async () => {
  expect(await candidates(program, ['grants', 'list', '--device', ''], values)).toEqual([{ word: 'm1@a.example' }]);
  expect(await candidates(program, ['grants', 'revoke', '01A'], values)).toEqual([{ word: '01AB', what: 'to [2J m1' }]);
});
