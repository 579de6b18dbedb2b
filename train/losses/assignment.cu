// The cheapest one-to-one assignment of queries and targets, of many tables of costs in one launch.
//
// The Hungarian method by shortest augmenting paths, O(n^2 m), in double precision: what SciPy's
// `linear_sum_assignment` finds, but for ties. A warp has a table, and its lanes the columns. Rows
// are those of which there are fewer, queries or targets; costs that are not finite end in some
// assignment, not in an endless loop.
//
// LANES is 32; a compiler for processors checks the same code with 1.

#define FAR (1.0 / 0.0)

extern "C" __global__ void assign(
    const float* costs,   // (G, L, N, M)
    const int* counts,    // (G,): targets that a sample has, the first of its M
    long long* matches,   // (G, L, 2, min(N, M)): queries, ascending, and their targets
    int layers, int N, int M
) {
    const int g = blockIdx.y, l = blockIdx.x, lane = threadIdx.x;
    const int targets = counts[g], most = N < M ? N : M;
    const bool turned = targets <= N;  // rows are targets
    const int rows = turned ? targets : N, columns = turned ? N : targets;
    const float* table = costs + ((long long)g * layers + l) * N * M;
    long long* queries = matches + ((long long)g * layers + l) * 2 * most;

    // As in books, rows and columns count from 1; column 0 holds the row that looks for a place.
    const int size = (N > M ? N : M) + 1;
    extern __shared__ double memory[];
    double *row_price = memory, *price = memory + size, *least = memory + 2 * size;
    int *row_of = (int*)(memory + 3 * size), *before = row_of + size, *done = before + size;

    for (int j = lane; j < size; j += LANES) row_price[j] = price[j] = 0.0, row_of[j] = 0;
    for (int row = 1; row <= rows; row++) {
        for (int j = lane; j < size; j += LANES) least[j] = FAR, before[j] = 0, done[j] = 0;
        if (lane == 0) row_of[0] = row;
        __syncwarp();
        int column = 0;
        do {
            const int own = row_of[column];
            if (lane == 0) done[column] = 1;
            __syncwarp();
            double best = FAR;
            int next = size;
            for (int j = 1 + lane; j <= columns; j += LANES) {
                if (done[j]) continue;
                const int at = turned ? (j - 1) * M + own - 1 : (own - 1) * M + j - 1;
                const double cost = (double)table[at] - row_price[own] - price[j];
                if (cost < least[j]) least[j] = cost, before[j] = column;
                if (next == size || least[j] < best) best = least[j], next = j;
            }
            for (int step = LANES / 2; step > 0; step /= 2) {
                const double other = __shfl_xor_sync(~0u, best, step);
                const int its = __shfl_xor_sync(~0u, next, step);
                // Every lane comes to the same: the first of the cheapest.
                if (its < size && (next == size || other < best || (!(best < other) && its < next)))
                    best = other, next = its;
            }
            next = __shfl_sync(~0u, next, 0);  // where numbers are none, comparisons say anything
            best = __shfl_sync(~0u, best, 0);
            for (int j = lane; j <= columns; j += LANES) {
                if (done[j]) row_price[row_of[j]] += best, price[j] -= best;
                else least[j] -= best;
            }
            __syncwarp();
            column = next;
        } while (row_of[column] != 0);
        if (lane == 0) {
            while (column != 0) {
                const int from = before[column];
                row_of[column] = row_of[from];
                column = from;
            }
        }
        __syncwarp();
    }
    if (lane != 0) return;
    int found = 0;
    if (turned) {
        for (int j = 1; j <= columns; j++)
            if (row_of[j]) queries[found] = j - 1, queries[most + found++] = row_of[j] - 1;
    } else {
        for (int j = 1; j <= columns; j++) if (row_of[j]) before[row_of[j]] = j;
        for (; found < rows; found++) queries[found] = found, queries[most + found] = before[found + 1] - 1;
    }
}
