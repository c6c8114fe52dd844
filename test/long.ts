/**
 * True in `npm run test:long`. A test that asks does the rest of its cases there, or more rounds; in `npm test` a few of each kind.
 * scripts/test.js runs every file that imports this one in both, and says at the end of `npm test` which they are.
 */
export const long = process.env.LORAFUSE_TEST_LONG === '1'
