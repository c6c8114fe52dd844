import assert from 'node:assert/strict'
import { test } from 'node:test'
import { captionWarnings } from '../../../lib/train/captions.js'

test('captions that are missing, cut or too long are counted, by image, once each', async () => {
  let counted = 0
  const tokenizer = {
    length: 5,
    count(text: string) {
      counted += 1
      return text.split(' ').length
    },
  }
  const items = [
    { caption: '' },
    { caption: 'a b c d' },
    { caption: 'a b c d', captionCut: true },
    { caption: 'a b c', captionCut: true },
    { caption: '', captionCut: true },
  ]
  const warnings = await captionWarnings(items, 'x', tokenizer, 1)
  assert.deepEqual(
    warnings.map(({ code, message, path }) => [code, message.replace(/ images .*/, ''), path]),
    [
      ['NO_CAPTION', '2 of 5', 'x'],
      ['CAPTION_LINES', '3 of 5', 'x'],
      ['CAPTION_TOO_LONG', '2 of 5', 'x'],
    ],
  )
  assert.match(warnings[2]!.message, /more than 3 tokens/)
  assert.equal(counted, 3)
  const [long] = await captionWarnings([{ caption: 'a b c d' }, { caption: 'a b c d e f g' }], 'x', tokenizer, 2)
  assert.match(long!.message, /^1 of 2 images have a caption of more than 6 tokens/)
  assert.deepEqual(await captionWarnings([{ caption: 'a' }], 'x', tokenizer, 1), [])
})
