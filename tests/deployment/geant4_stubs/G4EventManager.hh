#pragma once
class G4Event;
class G4EventManager {
public:
    static G4EventManager* GetEventManager();
    const G4Event* GetConstCurrentEvent() { return event_; }
    G4Event* event_ = nullptr;  // at 0
};
