// Pipelines over a DMA and a bus, with std::priority_queue: what engine_speed.py holds the fast engine against.
//
//   queue_loop PIPELINES JOBS   ->   "EVENTS MAKESPAN CPU_SECONDS"
//
// Each pipeline does JOBS jobs one after another: it computes, moves a block over one of 16 channels of the DMA, computes,
// moves a block over the bus, computes. Who asked first is served first; among equals, the pipeline of the smaller number.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

struct Pipeline {
    int64_t jobs;
    int stage;
};

struct Server {
    int free;
    int64_t hold;
    std::deque<int> waiting;
};

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const int n = std::atoi(argv[1]);
    const int64_t jobs = std::atoll(argv[2]);
    const std::clock_t start = std::clock();
    using Event = std::pair<int64_t, int>;  // tick, pipeline
    std::priority_queue<Event, std::vector<Event>, std::greater<Event>> events;
    std::vector<Pipeline> pipelines(n, Pipeline{jobs, 0});
    std::array<Server, 2> servers{Server{16, 40, {}}, Server{1, 3, {}}};
    const std::array<int64_t, 3> runs{100, 50, 20};
    for (int i = 0; i < n; ++i) events.push({runs[0] + i % 7, i});
    int64_t count = 0, now = 0;
    while (!events.empty()) {
        now = events.top().first;
        while (!events.empty() && events.top().first == now) {
            const int i = events.top().second;
            events.pop();
            ++count;
            Pipeline& p = pipelines[i];
            if (p.stage % 2 == 1) ++servers[p.stage / 2].free;
            if (++p.stage == 5) {
                p.stage = 0;
                if (--p.jobs == 0) continue;
            }
            if (p.stage % 2 == 1)
                servers[p.stage / 2].waiting.push_back(i);
            else
                events.push({now + runs[p.stage / 2] + i % 7, i});
        }
        for (Server& server : servers) {
            while (server.free > 0 && !server.waiting.empty()) {
                events.push({now + server.hold, server.waiting.front()});
                server.waiting.pop_front();
                --server.free;
            }
        }
    }
    const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
    std::printf("%lld %lld %.9f\n", (long long)count, (long long)now, seconds);
}
