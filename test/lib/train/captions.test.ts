import assert from 'node:assert/strict'
import { test } from 'node:test'
import { captionWarnings } from '../../../lib/train/captions.js'

test('captions that are missing, of several lines or cut are counted, by image', () => {
  const tokens = new Map(['', 'a b c', 'a b c d'].map((caption) => [caption, { ids: {}, cut: caption.length > 5 }]))
  const items = [
    { caption: '' },
    { caption: 'a b c d' },
    { caption: 'a b c d', captionCut: true },
    { caption: 'a b c', captionCut: true },
    { caption: '', captionCut: true },
  ]
  const warnings = captionWarnings(items, 'x', tokens, 3)
  assert.deepEqual(
    warnings.map(({ code, message, path }) => [code, message.replace(/ images .*/, ''), path]),
    [
      ['NO_CAPTION', '2 of 5', 'x'],
      ['CAPTION_LINES', '3 of 5', 'x'],
      ['CAPTION_TOO_LONG', '2 of 5', 'x'],
    ],
  )
  assert.match(warnings[2]!.message, /more than 3 tokens/)
  assert.deepEqual(captionWarnings([{ caption: 'a b c' }], 'x', tokens, 3), [])
})
