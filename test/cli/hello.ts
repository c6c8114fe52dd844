/** The commands with one more, which stands in this row alone. */
import type { Command, Commands } from '../../lib/cli/command.js'
import { commands as others } from '../../lib/cli/commands.js'
import { resolve } from '../../lib/options/resolve.js'
import { defaulted, rowsOf } from '../../lib/options/rows.js'
import { flag, integer } from '../../lib/options/values.js'

const options = {
  Greeting: { times: defaulted(integer({ min: 1, max: 3 }), 1, 'How often to greet', { kohya: ['greeting_count'] }) },
  'Command line': { help: defaulted(flag, false, 'Show this help') },
}

const hello: Command = {
  summary: 'Say hello',
  options,
  async run({ values, label, print }) {
    const { times } = resolve('hello', rowsOf(options), values, label)
    print('hello '.repeat(times).trimEnd())
    return true
  },
}

export const commands: Commands = { ...others, hello }
